"""Preprocessing by the tasks of a Slurm step, coordinated by files; needs no Slurm."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tiny_run import ENVIRONMENT, PREPROCESS, ROOT, run, tree, write_text

OPTIONS = ("--vocab-size", "800", "--context", "64", "--unit-bytes", "20k")


def start_task(
    number: int, tasks: int, text: Path, shards: Path, restart: str = "0"
) -> subprocess.Popen[str]:
    """Start one task as `srun --ntasks=TASKS` would."""
    step = {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_ID": "0",
        "SLURM_RESTART_COUNT": restart,
        "SLURM_STEP_NUM_TASKS": str(tasks),
        "SLURM_PROCID": str(number),
    }
    return subprocess.Popen(
        [sys.executable, PREPROCESS, "--input", text, "--output", shards, *OPTIONS],
        cwd=ROOT,
        env={**ENVIRONMENT, **step},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slurm_tasks") / "text"
    write_text(folder)
    return folder


def test_three_tasks_write_what_one_process_writes(text: Path, tmp_path: Path) -> None:
    tasks = [start_task(number, 3, text, tmp_path / "shards") for number in range(3)]
    said = [task.communicate(timeout=120)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0, 0], said
    alone = run(
        *(sys.executable, PREPROCESS, "--input", text, "--output", tmp_path / "alone"),
        *("--workers", "1", *OPTIONS),
    )
    assert alone.returncode == 0, alone.stdout
    assert tree(tmp_path / "shards") == tree(tmp_path / "alone")
    assert not list((tmp_path / "shards" / ".preprocess").glob("step-*"))


def test_a_task_that_fails_ends_the_others(tmp_path: Path) -> None:
    """They learn of the failure from the output folder, without Slurm killing them."""
    (tmp_path / "text").mkdir()
    tasks = [start_task(number, 2, tmp_path / "text", tmp_path / "shards") for number in range(2)]
    said = [task.communicate(timeout=60)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [2, 1], said
    assert "task 0 of this job failed" in said[1]


def test_a_restarted_job_takes_its_own_lock_from_a_dead_host(text: Path, tmp_path: Path) -> None:
    lock = tmp_path / "shards" / ".preprocess" / "lock.json"
    lock.parent.mkdir(parents=True)
    holder = (
        '{"token": "a", "host": "elsewhere", "pid": 1, "slurm_job": "%s", "slurm_restart": 0, '
        '"since": 0}'
    )
    lock.write_text(holder % "8")
    tasks = [start_task(n, 2, text, tmp_path / "shards", restart="1") for n in range(2)]
    said = [task.communicate(timeout=60)[0] for task in tasks]
    assert tasks[0].returncode == 2, "another job's lock holds"
    assert "is being written by process 1 on elsewhere" in said[0]
    lock.write_text(holder % "7")
    tasks = [start_task(n, 2, text, tmp_path / "shards", restart="2") for n in range(2)]
    said = [task.communicate(timeout=120)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], said
