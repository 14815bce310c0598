"""`mmbert submit` with programs that answer like Slurm's: commands, dependencies, refusals."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mmbert.journals.run_journal import (
    NODE_REPORTS_NAME,
    NodeProblem,
    NodeReport,
    append_record,
)
from tests.cluster.conftest import submit
from tests.support.command_lines import KEPT
from tests.support.environment import ROOT, with_packages

Calls = Callable[[], list[list[str]]]
CHAIN = ("recipe.yaml", "text", "my out")
STEPS = ["preprocess", "pretrain", "decay", "merge", "evaluate"]
ON_GPUS = ("--set", "gpus_per_node=2", "--nodes", "2")


def _options(call: list[str]) -> dict[str, str]:
    words = (word.removeprefix("--").partition("=") for word in call if word.startswith("--"))
    return {name: value for name, _, value in words}


def test_each_job_waits_for_the_one_before(place: Path, slurm: Calls) -> None:
    outcome = submit(*ON_GPUS, "--set", "partition=a b", *CHAIN, "seed=9")
    assert outcome.status == 0, outcome
    calls = slurm()
    out = place / "my out"
    assert [Path(call[-len(call) + call.index(script)]).name for call in calls
            for script in call if script.endswith(".sbatch")] == [
        f"{step}.sbatch" for step in STEPS
    ]  # fmt: skip
    for number, call in enumerate(calls):
        options = _options(call)
        assert options["partition"] == "a b"
        assert options["kill-on-invalid-dep"] == "yes"
        before = f"afterok:{100 + number}" if number else None
        assert options.get("dependency") == before
    assert _options(calls[1])["nodes"] == "2"
    assert _options(calls[1])["gpus-per-node"] == "2"
    assert _options(calls[2])["array"] == "0,1"
    assert calls[2][-5:] == [
        *(str(out / "recipe.yaml"), str(out / "shards"), str(out / "run")), "warmer", "old masks"
    ]  # fmt: skip
    assert "seed: 9" in (out / "recipe.yaml").read_text()
    jobs = json.loads((out / "chain.json").read_text())["jobs"]
    assert [(job["step"], job["job"]) for job in jobs] == [
        (step, str(101 + number)) for number, step in enumerate(STEPS)
    ]


def test_jobs_in_the_queue_are_named_and_nothing_is_submitted(place: Path, slurm: Calls) -> None:
    assert submit(*ON_GPUS, *CHAIN).status == 0
    queue = Path(os.environ["FAKE_SLURM"], "queue")
    queue.write_text(
        "102|RUNNING|0:10|1|mmbert:x|N/A|n1|None\n103_[0-1]|PENDING|0:00|1||N/A||a|b\n"
    )
    outcome = submit(*ON_GPUS, *CHAIN)
    assert outcome.refused
    assert "in the queue: 102, 103_[0-1]" in outcome.stderr
    assert len(slurm()) == 5
    queue.write_text("102|FAILED|0:10|1|mmbert:x|N/A|n1|None\n")
    assert submit(*ON_GPUS, *CHAIN).status == 0
    assert len(slurm()) == 10


def test_a_refused_job_cancels_those_before_it(place: Path, slurm: Calls) -> None:
    outcome = submit(*ON_GPUS, "--set", "steps.decay.partition=none", *CHAIN)
    assert outcome.refused
    assert "refuses the job of the step decay: sbatch: error: invalid partition" in outcome.stderr
    assert [call[:2] for call in slurm()[-2:]] == [["scancel", "101"], ["scancel", "102"]]


def test_what_is_done_is_left_out(place: Path, slurm: Calls) -> None:
    """The kept run is of another recipe, whose last step it has."""
    out = place / "my out"
    shutil.copytree(KEPT / "run", out / "run")
    shutil.copytree(KEPT / "shards", out / "shards")
    recipe = out / "run" / "recipe.yaml"
    outcome = submit("--dry-run", str(recipe), "text", str(out))
    assert outcome.status == 0, outcome
    assert "# 1. preprocess: done\n# 2. pretrain: done\n# 3. merge\nmerge=" in outcome.stdout
    assert submit(str(recipe), "gone", str(out)).status == 0, "the text is not read again"
    assert [_options(call)["job-name"] for call in slurm()] == ["mmbert-merge", "mmbert-evaluate"]
    (out / "model").mkdir()
    outcome = submit("--dry-run", str(recipe), "text", str(out))
    assert "# 3. merge: done\n# 4. evaluate\nevaluate=" in outcome.stdout
    outcome = submit("--dry-run", str(recipe), "text", str(out), "phases.decay.tokens=1M")
    assert outcome.refused, "the model would be of a shorter run"
    assert "is not finished under this recipe" in outcome.stderr


def test_sizes_that_fit_are_named(place: Path) -> None:
    site = ("--set", "gpus_per_node=2", "--dry-run")
    outcome = submit(*site, "--nodes", "3", *CHAIN)
    assert outcome.refused
    assert "3 node(s) × 2 = 6 ranks do not fit the recipe" in outcome.stderr
    assert "→ give 1, 2 node(s)" in outcome.stderr
    outcome = submit(*site, "--nodes", "2", *CHAIN, "parallel.tensor=2")
    assert "# pretrain: 2 node(s) × 2 = 4 ranks: 2 data × 2 tensor" in outcome.stdout
    outcome = submit("--dry-run", *CHAIN)
    assert "not checked against batch.quantum 4" in outcome.stdout


def test_suspected_nodes_are_left_out_and_slow_ones_where_the_site_says_so(
    place: Path, slurm: Calls
) -> None:
    """A dead node is Slurm's to give out again."""
    for host, problem, exclude in (
        ("n1", NodeProblem.SLOW, False),
        ("n2", NodeProblem.WRONG, True),
        ("n3", NodeProblem.WRONG, False),
        ("n4", NodeProblem.DEAD, True),
    ):
        report = NodeReport(unix_time=0, host=host, problem=problem, detail="x", exclude=exclude)
        (place / "my out" / "run").mkdir(parents=True, exist_ok=True)
        append_record(place / "my out" / "run" / NODE_REPORTS_NAME, report)
    for given, expected in (((), "n2"), (("--set", "leave_out_slow_nodes=true"), "n1,n2")):
        assert submit(*ON_GPUS, *given, *CHAIN).status == 0
        found = [_options(call).get("exclude") for call in slurm()[-5:]]
        assert found == [None, expected, expected, None, None]


def test_a_dry_run_needs_no_slurm_writes_nothing_and_is_shell(
    place: Path, monkeypatch: pytest.MonkeyPatch, slurm: Calls
) -> None:
    """The printed commands submit what the command itself submits."""
    assert submit(*ON_GPUS, *CHAIN).status == 0
    submitted = slurm()
    shutil.rmtree(place / "my out")
    Path(os.environ["FAKE_SLURM"], "calls").unlink()
    Path(os.environ["FAKE_SLURM"], "number").unlink()
    with_slurm = os.environ["PATH"]
    monkeypatch.setenv("PATH", "/nothing")
    outcome = submit(*ON_GPUS, "--dry-run", *CHAIN)
    assert outcome.status == 0, outcome
    assert not (place / "my out").exists()
    result = subprocess.run(
        ["bash", "-eu"], input=outcome.stdout, text=True, env={**os.environ, "PATH": with_slurm}
    )
    assert result.returncode == 0
    assert slurm() == submitted
    assert submit(*ON_GPUS, *CHAIN).refused, "without Slurm"


@pytest.mark.parametrize(
    ("site", "words"),
    [
        (
            "nvidia",
            "--gpus-per-node=8 '--container-image=nvcr.io#nvidia/pytorch:25.09-py3' "
            "--container-mounts=/scratch:/scratch --no-container-mount-home python3 -P -m "
            "mmbert.pretrain --recipe /scratch/out/recipe.yaml",
        ),
        (
            "amd",
            "--gpus-per-node=8 singularity exec --rocm --bind /project --bind /scratch "
            "/project/project_465000000/mmbert.sif python3 -P -m mmbert.pretrain "
            "--recipe /scratch/out/recipe.yaml",
        ),
    ],
)
def test_base_on_eight_nodes_of_each_kind_of_site(place: Path, site: str, words: str) -> None:
    options = ("--site", str(ROOT / "slurm" / "sites" / f"{site}.yaml"), "--nodes=8", "--dry-run")
    overrides = ("batch.quantum=64", "batch.rows=128", "batch.growth.from_rows=64")
    text = place / "text"
    submitted = submit(*options[:-1], "mmbert-base", str(text), "/scratch/out", *overrides)
    assert "has no folder fineweb2" in submitted.stderr
    outcome = submit(*options, "mmbert-base", str(text), "/scratch/out", *overrides)
    if site == "nvidia":
        assert f"no folder above {text}:" in outcome.stderr
        options = (*options, "--set", "container.binds=[/]")
        outcome = submit(*options, "mmbert-base", str(text), "/scratch/out", *overrides)
        words = words.replace("/scratch:/scratch", "/")
    assert outcome.status == 0, outcome
    assert "has no folder fineweb2" in outcome.stdout
    assert "# pretrain: 8 node(s) × 8 = 64 ranks: 64 data × 1 tensor" in outcome.stdout
    assert words in outcome.stdout
    if site == "nvidia":
        assert "hours on 64 h100 at an assumed MFU" in outcome.stdout


_SRUN = """#!/bin/bash
printf '%s\\0' "$@" >> "$SAID"
"""


@pytest.mark.parametrize("kind", ["none", "apptainer", "pyxis"])
def test_the_printed_srun_lines_are_those_of_the_jobs(
    place: Path, slurm: Calls, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scripts run with a Python that only restarts ranks, and an srun that notes its words."""
    environment = tmp_path / "environment" / "bin"
    environment.mkdir(parents=True)
    programs = Path(os.environ["FAKE_SLURM"])
    answers = (
        'case "$2" in hostnames) echo n1;; job) echo "  EndTime=Unknown PreemptTime=None";; esac'
    )
    (programs / "scontrol").write_text(f"#!/bin/bash\n{answers}\n")
    (programs / "srun").write_text(_SRUN)
    (environment / "python").write_text(
        f'#!/bin/sh\ncase "$*" in *mmbert.cluster.restart*) exec {sys.executable} "$@";; esac\n'
    )
    for path in (programs / "scontrol", programs / "srun", environment / "python"):
        path.chmod(0o755)
    (programs / "queue").write_text("RUNNING\n")
    container = {"none": "null", "apptainer": "{kind: apptainer, image: 'my image', gpu: nv, "
                 "binds: ['/a b:/c'], options: [--cleanenv]}",
                 "pyxis": "{kind: pyxis, image: a#b, binds: [/]}"}[kind]  # fmt: skip
    site = place / "site.yaml"
    site.write_text(
        f"gpus_per_node: 2\ncpus_per_task: 3\ncontainer: {container}\nmodules: [a b]\n"
        "environment: {ODD: \"it's\\n$(x)\"}\nsetup: ['[[ $LOADED == a\\ b ]]', 'echo ODD $ODD']\n"
    )
    monkeypatch.setenv("MMBERT_SITE", str(site))
    from tests.support.command_lines import call

    printed = call("mmbert submit", ["--dry-run", *CHAIN], MMBERT_VENV=str(environment.parent))
    assert printed.status == 0, printed
    inside = printed.stdout.replace("\n# ", "\n").split("  in the job: ")[1:]
    lines = [one.split("\ndecay=")[0] for one in inside]
    assert call("mmbert submit", [*CHAIN], MMBERT_VENV=str(environment.parent)).status == 0
    job = {
        **with_packages(), "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "j", "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_NODELIST": "n1", "SLURM_CPUS_ON_NODE": "12", "SAID": str(tmp_path / "said"),
        "MMBERT_HOME": str(ROOT), "MMBERT_VENV": str(environment.parent),
        "MMBERT_SITE_SCRIPT": str(place / "my out" / "site.bash"), "MMBERT_JOURNALS": "",
    }  # fmt: skip
    said = []
    for call_ in slurm():
        options = _options(call_)
        gpus = options.get("gpus-per-node")
        more = {"SLURM_GPUS_PER_NODE": gpus, "SLURM_GPUS_ON_NODE": gpus} if gpus else {}
        more |= {"SLURM_CPUS_PER_TASK": "3"} if "cpus-per-task" in options else {}
        script = next(place for place, word in enumerate(call_) if word.endswith(".sbatch"))
        for task in options.get("array", "").split(","):
            array = {"SLURM_ARRAY_TASK_ID": task, "SLURM_ARRAY_JOB_ID": "7"} if task else {}
            result = subprocess.run(
                ["bash", "-c", 'module() { export LOADED=$2; }; export -f module; exec bash "$@"',
                 "bash", *call_[script:]],
                env={**job, **more, **array}, capture_output=True, text=True, timeout=60,
            )  # fmt: skip
            assert result.returncode == 0, result.stdout + result.stderr
    said = (tmp_path / "said").read_text().split("\0")[:-1]
    expected: list[str] = []
    for line in lines:
        # The next step's line follows the last line of a step.
        command = line.split("\n2. ")[0].split("\n3. ")[0].split("\n4. ")[0].split("\n5. ")[0]
        code = command.rstrip("\n").replace("srun ", "printf '%s\\0' ", 1)
        shown = subprocess.run(
            ["bash", "-c", code], env={**os.environ, "SLURM_CPUS_ON_NODE": "12"},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        expected += shown.stdout.split("\0")[:-1]
    assert len(lines) == 8
    assert said == expected


def test_submit_sh_finds_python_and_its_own_folder(place: Path) -> None:
    shutil.copytree(ROOT / "slurm", place / "slurm")
    (place / "slurm" / "site.yaml").write_text("tasks_per_node: 2\ngpus_per_node: 0\n")
    result = subprocess.run(
        ["slurm/submit.sh", "--dry-run", *CHAIN],
        env={**os.environ, "MMBERT_VENV": sys.prefix},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"export MMBERT_HOME={shlex.quote(str(place))}\n" in result.stdout
    assert "# pretrain: 1 node(s) × 2 = 2 ranks" in result.stdout
    result = subprocess.run(
        ["bash", str(place / "slurm" / "submit.sh")],
        env={**os.environ, "MMBERT_VENV": "/none"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 2
    assert "/none/bin/python" in result.stderr


def test_without_arguments_it_is_the_demo(place: Path) -> None:
    outcome = submit("--dry-run", "--set", "gpus_per_node=8", "--nodes=4")
    assert outcome.status == 0, outcome
    assert "# pretrain: 1 node(s) × 2 = 2 ranks: 2 data" in outcome.stdout
    assert " -m mmbert_prep.demo.corpus " in outcome.stdout
    assert "--gpus-per-node=2" in outcome.stdout
    assert submit("recipe.yaml").refused
