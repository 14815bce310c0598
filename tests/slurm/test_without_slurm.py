"""What can be told about the Slurm scripts without Slurm: arithmetic for many nodes, refusals."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.environment import ROOT

SCRIPTS = ("pretrain.sbatch", "preprocess.sbatch")


def run_script(
    name: str, *arguments: str, programs: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a script of slurm/ as the batch host would, with `programs` in place of Slurm's."""
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
    """Programs that answer as Slurm would for a job on 64 nodes; srun prints its command."""
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


@pytest.mark.parametrize("name", SCRIPTS)
def test_not_a_batch_job_is_refused(name: str) -> None:
    result = run_script(name, "a", "b", "c")
    assert result.returncode == 2
    assert "sbatch" in result.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_scripts_are_sound_shell(name: str) -> None:
    shellcheck = shutil.which("shellcheck")
    command = [shellcheck, "-x", "-S", "warning"] if shellcheck else ["bash", "-n"]
    result = subprocess.run(
        [*command, str(ROOT / "slurm" / name)], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert result.returncode == 0, result.stdout + result.stderr
