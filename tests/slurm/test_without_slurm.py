"""Slurm scripts without Slurm: the tasks of many nodes, invalid jobs, shell syntax."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.environment import ROOT, with_packages

SCRIPTS = ("pretrain.sbatch", "preprocess.sbatch")
OF_THE_CHAIN = ("merge.sbatch", "evaluate.sbatch")
ALL = sorted(path.name for path in (ROOT / "slurm").glob("*.*") if path.suffix != ".yaml")


def run_script(
    name: str, *arguments: str, programs: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a script of slurm/ as the batch host would, with `programs` instead of Slurm's."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    path = f"{programs}:{os.environ['PATH']}" if programs else os.environ["PATH"]
    return subprocess.run(
        ["bash", str(ROOT / "slurm" / name), *arguments],
        env={**clean, "PATH": path, "MMBERT_VENV": sys.prefix, **variables},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Folder of programs that answer like Slurm for a job on 64 nodes; srun prints its command."""
    answers = {
        "scontrol": 'case "$2" in hostnames) printf "gpu%03d\\n" $(seq 1 64);; '
        'job) echo "   EndTime=Unknown PreemptTime=None";; esac',
        "squeue": "echo RUNNING",
        "srun": 'echo "MASTER_ADDR=$MASTER_ADDR srun $*"',
    }
    for name, body in answers.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def test_sixty_four_nodes_of_eight_gpus(programs: Path) -> None:
    result = run_script(
        "pretrain.sbatch",
        *("recipe.yaml", "shards", "run", "batch.rows=8"),
        programs=programs,
        SLURM_JOB_ID="7",
        SLURM_JOB_NAME="pretrain",
        SLURM_JOB_NUM_NODES="64",
        SLURM_JOB_NODELIST="gpu[001-064]",
        SLURM_GPUS_PER_NODE="h100:8",
        SLURM_GPUS_ON_NODE="8",
        SLURM_CPUS_ON_NODE="96",
    )
    assert result.returncode == 0, result.stdout + result.stderr
    started = next(line for line in result.stdout.splitlines() if "MASTER_ADDR=" in line)
    for word in (
        "MASTER_ADDR=gpu001",
        "--nodes=64",
        "--ntasks=512",
        "--ntasks-per-node=8",
        "--cpus-per-task=12",
        "--gpus-per-node=8",
        "--recipe recipe.yaml --data shards --output run batch.rows=8",
    ):
        assert word in started


ONE_NODE = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NAME": "job",
    "SLURM_JOB_NUM_NODES": "1",
    "SLURM_JOB_NODELIST": "gpu001",
    "SLURM_CPUS_ON_NODE": "4",
}


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        (("a b", "out", "--recipe", "demo"), "--input a b --output out --recipe demo"),
        (("--output", "out", "--source", "web=a"), "--output out --source web=a"),
    ],
)
def test_input_and_output_or_options_alone(
    programs: Path, given: tuple[str, ...], passed: str
) -> None:
    result = run_script("preprocess.sbatch", *given, programs=programs, **ONE_NODE)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"-m mmbert_prep {passed}\n" in result.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_copy_of_the_scripts_runs_the_active_environment(
    programs: Path, tmp_path: Path, name: str
) -> None:
    """As after `mmbert slurm-scripts`, in a folder without the repository or a .venv."""
    home = tmp_path / "elsewhere"
    shutil.copytree(ROOT / "slurm", home / "slurm")
    variables = {**ONE_NODE, "MMBERT_VENV": "", "SLURM_SUBMIT_DIR": str(home)}
    result = run_script(name, "a", "b", "c", programs=programs, **variables, VIRTUAL_ENV=sys.prefix)
    assert result.returncode == 0, result.stdout + result.stderr
    module = "mmbert.pretrain" if name == "pretrain.sbatch" else "mmbert_prep"
    assert f" {sys.prefix}/bin/python -P -m {module} --" in result.stdout
    (home / ".venv").mkdir()
    result = run_script(name, "a", "b", "c", programs=programs, **variables, VIRTUAL_ENV=sys.prefix)
    assert result.returncode == 2
    assert f"there is no {home}/.venv/bin/python" in result.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_environment_without_the_package_is_refused(
    programs: Path, tmp_path: Path, name: str
) -> None:
    python = tmp_path / "empty" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    empty = str(python.parents[1])
    result = run_script(name, "a", "b", "c", programs=programs, **ONE_NODE, MMBERT_VENV=empty)
    assert result.returncode == 2
    assert f"mmbert is not installed in {empty}" in result.stdout
    assert "→" in result.stdout


@pytest.mark.parametrize("name", [*SCRIPTS, *OF_THE_CHAIN, "decay.sbatch"])
def test_not_a_batch_job_is_refused(name: str) -> None:
    result = run_script(name, "a", "b", "c")
    assert result.returncode == 2
    assert "sbatch" in result.stdout


@pytest.mark.parametrize("name", ALL)
def test_the_scripts_are_sound_shell(name: str) -> None:
    shellcheck = shutil.which("shellcheck")
    command = [shellcheck, "-x"] if shellcheck else ["bash", "-n"]
    result = subprocess.run(
        [*command, str(ROOT / "slurm" / name)], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(("required", "status"), [("", 0), ("1", 1)])
def test_without_slurm_its_tests_fail_only_where_it_is_required(required: str, status: int) -> None:
    test = "tests/slurm/test_pretrain_script.py::test_a_cancelled_job_stays_cancelled"
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "slurm", test],
        cwd=ROOT,
        env=with_packages() | {"PATH": "/nowhere", "REQUIRE_SLURM": required},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == status, result.stdout
    assert ("skipped, although REQUIRE_SLURM is set" in result.stdout) == bool(required)
