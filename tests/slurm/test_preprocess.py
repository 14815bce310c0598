"""slurm/preprocess.sbatch with the real program: two hosts write the same bytes as one process."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.support.tiny_run import ENVIRONMENT, PREPROCESS, ROOT, run, tree, write_text

SCRIPT = ROOT / "slurm" / "preprocess.sbatch"
OPTIONS = ("--vocab-size", "800", "--context", "64", "--unit-bytes", "20k")


def wait_for(condition: Callable[[], bool], timeout: float) -> None:
    """Wait until `condition()` holds. Raises TimeoutError."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.05)


class Runner:
    """Submits jobs that preprocess one text to the cluster."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._cluster, self.folder = cluster, folder
        self.text, self.shards = folder / "text", folder / "shards"

    def submit(self, *options: str) -> int:
        """Submit the script as a user would and return the job id."""
        return self._cluster.submit(
            *(*options, f"--output={self.folder}/%x-%j.log", SCRIPT),
            *(self.text, self.shards, *OPTIONS),
            folder=ROOT,
            environment={**ENVIRONMENT, "MMBERT_VENV": sys.prefix},
        )

    def in_one_process(self) -> dict[str, bytes]:
        """Return the shards that one process makes of the same text."""
        result = run(
            *(sys.executable, PREPROCESS, "--input", self.text),
            *("--output", self.folder / "alone", "--workers", "1", *OPTIONS),
        )
        assert result.returncode == 0, result.stdout
        return tree(self.folder / "alone")


@pytest.fixture
def runner(cluster: Cluster, tmp_path: Path) -> Runner:
    return Runner(cluster, tmp_path)


@pytest.mark.parametrize("nodes", [1, 2])
def test_same_bytes_as_one_process(cluster: Cluster, runner: Runner, nodes: int) -> None:
    write_text(runner.text)
    job = runner.submit(f"--nodes={nodes}")
    end = cluster.wait_state(job, "COMPLETED", "FAILED", timeout=240)
    log = cluster.log(job)
    assert end["JobState"] == "COMPLETED", log
    assert f"{nodes} node(s) × 2 = {2 * nodes} worker(s)" in log
    assert "570 documents read" in log
    assert tree(runner.shards) == runner.in_one_process()
    again = runner.submit(f"--nodes={nodes}")
    cluster.wait_state(again, "COMPLETED", timeout=240)
    assert "already finished" in cluster.log(again)


@pytest.mark.long
@pytest.mark.parametrize("cause", ["preemption", "time limit", "dead host"])
def test_interrupted_it_continues_to_the_same_bytes(
    cluster: Cluster, runner: Runner, cause: str
) -> None:
    write_text(runner.text, scale=40)
    job = runner.submit("--nodes=2")
    units = runner.shards / ".preprocess" / "text"
    wait_for(lambda: len(list(units.glob("units-*/*.json"))) > 20, timeout=240)
    if cause == "preemption":
        important = cluster.submit(
            *("--partition=high", "--nodes=2", "--exclusive", "--wrap=sleep 1"),
            folder=runner.folder,
        )
        cluster.wait_state(important, "COMPLETED")
    elif cause == "time limit":
        cluster.run("scancel", "--batch", "--signal=USR1", str(job))
    else:
        cluster.kill_node("n1")  # host of the first worker
    try:
        cluster.restart_now(job)
        end = cluster.wait_state(job, "COMPLETED", "FAILED", timeout=240)
    finally:
        if cause == "dead host":
            cluster.revive_node("n1")
    assert (end["JobState"], end["Restarts"]) == ("COMPLETED", "1"), cluster.log(job)
    assert tree(runner.shards) == runner.in_one_process()


@pytest.mark.long
def test_a_killed_worker_ends_the_job_and_the_same_command_continues(
    cluster: Cluster, runner: Runner
) -> None:
    write_text(runner.text, scale=40)
    job = runner.submit("--nodes=2")
    units = runner.shards / ".preprocess" / "text"
    wait_for(lambda: len(list(units.glob("units-*/*.json"))) > 20, timeout=240)
    cluster.kill_task("SLURM_PROCID=3", "mmbert_prep")
    assert cluster.wait_state(job, "FAILED", "COMPLETED")["JobState"] == "FAILED"
    assert "FAILED with status" in cluster.log(job)
    assert "mmbert_prep" not in cluster.run("ps", "-eo", "args"), "no worker is left behind"
    job = runner.submit("--nodes=1")
    end = cluster.wait_state(job, "COMPLETED", "FAILED", timeout=240)
    assert end["JobState"] == "COMPLETED", cluster.log(job)
    assert tree(runner.shards) == runner.in_one_process()


def test_wrong_input_is_said_once_and_fails_the_job(cluster: Cluster, runner: Runner) -> None:
    runner.text.mkdir()
    job = runner.submit("--nodes=2")
    assert cluster.wait_state(job, "FAILED", "COMPLETED")["JobState"] == "FAILED"
    log = cluster.log(job)
    assert log.count(f"{runner.text}") == 2, log  # the command and the error
    assert "→" in log
