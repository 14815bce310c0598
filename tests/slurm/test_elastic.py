"""Jobs that come back with fewer or more nodes continue on a grid that fits, with the same data.

On a virtual cluster, with real training. The losses are those of an undisturbed run up to rounding,
because another grid sums in another order; tokens and languages of every step are the same.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from mmbert.journals.run_journal import STARTS_NAME, StartEvent, read_records
from tests.slurm.cluster import Cluster
from tests.slurm.tiny_job import SCRIPT, submit_tiny_job
from tests.support.tiny_run import losses_and_norms

# Whatever else the machine does: real jobs start many processes, one after another.
pytestmark = pytest.mark.timeout(3600)
PATHS = ("my recipe.yaml", "shards", "run")


def hosts_of_starts(run: Path) -> list[tuple[str, ...]]:
    events = read_records(run / STARTS_NAME, StartEvent)
    return [event.hosts for event in events if event.status is None]


# What a log line says of the rows of a step: their number, texts and fill.
_OF_THE_DATA = ("tokens", "rows_per_step", "packing_efficiency", "share_error_max", "epochs_max")


def data_of_steps(run: Path) -> dict[int, dict[str, Any]]:
    """Return what the log says of the data of every step."""
    records = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return {
        record["step"]: {key: record[key] for key in _OF_THE_DATA}
        for record in records
        if "gradient_norm" in record
    }


def assert_same_data(run: Path, undisturbed: Path) -> None:
    assert data_of_steps(run) == data_of_steps(undisturbed)
    losses, expected = losses_and_norms(run), losses_and_norms(undisturbed)
    assert list(losses) == list(expected)
    for step, values in expected.items():
        assert losses[step] == pytest.approx(values, rel=1e-4), step


@pytest.mark.long
def test_a_job_that_lost_a_node_for_good_continues_on_the_others(
    cluster: Cluster, inputs: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    cluster.run("scontrol", "update", "NodeName=n3", "State=DRAIN", "Reason=test")
    try:
        job = submit_tiny_job(cluster, inputs, run, "--nodes=2", "--gpus-per-node=1")
        cluster.wait_log(job, "step 30/", timeout=1200)
        cluster.kill_node("n2")
        cluster.wait_log(job, "the next start takes those", timeout=600)
        cluster.restart_now(job)
        end = cluster.wait_state(job, "COMPLETED", "FAILED", timeout=1200)
    finally:
        cluster.run("scontrol", "update", "NodeName=n3", "State=RESUME")
        cluster.revive_node("n2")
    log = cluster.log(job)
    assert (end["JobState"], end["NodeList"]) == ("COMPLETED", "n1"), log
    assert hosts_of_starts(run) == [("n1", "n2"), ("n1",)]
    assert "1 data ranks × 1 tensor ranks" in log
    assert_same_data(run, undisturbed)


@pytest.mark.long
def test_a_run_that_gets_more_nodes_than_fit_uses_the_most_that_do(
    cluster: Cluster, inputs: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """The recipe has four data streams, which three ranks cannot share."""
    run = tmp_path / "run"
    part = ("--stop-after-phase", "pretrain")
    job = submit_tiny_job(cluster, inputs, run, "--nodes=1", "--gpus-per-node=1", arguments=part)
    end = cluster.wait_state(job, "COMPLETED", "FAILED", timeout=1200)
    assert end["JobState"] == "COMPLETED", cluster.log(job)
    job = submit_tiny_job(cluster, inputs, run, "--nodes=3", "--gpus-per-node=1")
    end = cluster.wait_state(job, "COMPLETED", "FAILED", timeout=1200)
    log = cluster.log(job)
    assert end["JobState"] == "COMPLETED", log
    assert "can use 2 of 3 tasks; idle: all of n3" in log
    assert hosts_of_starts(run) == [("n1",), ("n1", "n2")]
    assert_same_data(run, undisturbed)


@pytest.mark.long
def test_a_first_start_on_nodes_that_do_not_fit_is_refused(
    cluster: Cluster, inputs: Path, tmp_path: Path
) -> None:
    """Nobody has asked for idle nodes: the sizes that fit are said before any training."""
    run = tmp_path / "run"
    job = submit_tiny_job(cluster, inputs, run, "--nodes=3", "--gpus-per-node=1")
    end = cluster.wait_state(job, "COMPLETED", "FAILED", timeout=1200)
    assert end["ExitCode"] == "2:0", cluster.log(job)
    assert "start with one of 1, 2, 4 processes" in cluster.log(job)


@pytest.mark.parametrize("tasks", ["--ntasks-per-node=2", "--gpus-per-node=2"])
@pytest.mark.parametrize(("nodes", "comes_back_with"), [("1-2", "n1"), ("2", "n[1,3]")])
def test_a_range_of_nodes_shrinks_and_a_fixed_number_stays(
    cluster: Cluster, home: Path, tasks: str, nodes: str, comes_back_with: str
) -> None:
    """Slurm counts the tasks of the most nodes, so that a range would never shrink by itself."""
    arguments = (*PATHS, "do=wait", "apart=0")
    job = cluster.submit(f"--nodes={nodes}", tasks, SCRIPT, *arguments, folder=home)
    cluster.wait_log(job, "waiting", times=4)
    cluster.run("scancel", "--batch", "--signal=USR1", str(job))
    cluster.wait_state(job, "PENDING")
    drained = ["n2"] if nodes == "2" else ["n2", "n3"]
    names = ",".join(drained)
    cluster.run("scontrol", "update", f"NodeName={names}", "State=DRAIN", "Reason=test")
    try:
        cluster.restart_now(job)
        end = cluster.wait_state(job, "COMPLETED", "FAILED")
    finally:
        cluster.run("scontrol", "update", f"NodeName={names}", "State=RESUME")
    assert (end["JobState"], end["NodeList"]) == ("COMPLETED", comes_back_with), cluster.log(job)
