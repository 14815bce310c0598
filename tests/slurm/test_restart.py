"""Restarts of the ranks inside a job on a virtual cluster: what is started again, and what is not.

With the stand-in for training where the ranks' own work does not matter, else with real training,
compared bitwise with an undisturbed run.
"""

import re
from pathlib import Path

import pytest

from mmbert.journals.run_journal import (
    NODE_REPORTS_NAME,
    STARTS_NAME,
    NodeProblem,
    NodeReport,
    StartEvent,
    append_record,
    read_records,
)
from tests.slurm.cluster import Cluster
from tests.slurm.tiny_job import SCRIPT, submit_tiny_job
from tests.support.tiny_run import losses_and_norms, weights

# Whatever else the machine does: real jobs start many processes, one after another.
pytestmark = pytest.mark.timeout(3600)
PATHS = ("my recipe.yaml", "shards", "run")
TWO_HOSTS = ("--nodes=2", "--gpus-per-node=2")


def starts(run: Path) -> list[StartEvent]:
    return list(read_records(run / STARTS_NAME, StartEvent))


def test_ranks_that_die_are_started_again_in_the_same_allocation(
    cluster: Cluster, home: Path
) -> None:
    job = cluster.submit(*TWO_HOSTS, SCRIPT, *PATHS, "do=die", "until=2", folder=home)
    end = cluster.wait_state(job, "COMPLETED", "FAILED")
    log = cluster.log(job)
    assert (end["JobState"], end["Restarts"]) == ("COMPLETED", "0"), log
    assert log.count(": continues") == 4, "all ranks are new, on both hosts"
    ports = re.findall(r"rank 0 listens at n1:(\d+)", log)
    assert len(set(ports)) == 3, "each start has a port of its own"
    assert set(re.findall(r"continues (\d+)", log)) == {ports[2]}
    ended = [start for start in starts(home / "run") if start.status is not None]
    assert [start.start for start in ended] == [0, 1]
    assert ended[0].hosts == ("n1", "n2")
    assert (ended[0].tasks, ended[0].gpus, ended[0].step) == (4, 4, 0)
    assert ended[0].cause == "failed with status 3; no rank reported why"


def test_after_three_restarts_without_a_checkpoint_the_job_fails(
    cluster: Cluster, home: Path
) -> None:
    job = cluster.submit(*TWO_HOSTS, SCRIPT, *PATHS, "do=die", folder=home)
    end = cluster.wait_state(job, "FAILED", "COMPLETED")
    log = cluster.log(job)
    assert (end["ExitCode"], end["Restarts"]) == ("3:0", "0"), log
    assert log.count("rank 0 listens at") == 4
    assert "FAILED with status 3 after 3 restart(s)" in log


def test_a_full_disk_is_not_tried_again(cluster: Cluster, home: Path) -> None:
    job = cluster.submit(*TWO_HOSTS, SCRIPT, *PATHS, "do=full", folder=home)
    cluster.wait_state(job, "FAILED", "COMPLETED")
    log = cluster.log(job)
    assert log.count("rank 0 listens at") == 1, log
    cause = starts(home / "run")[-1].cause or ""  # of the earliest report
    assert re.fullmatch(
        r"no space left on the disk: rank \d on n\d: no space left while writing x", cause
    )
    assert not (home / "run" / "failures").exists()


@pytest.mark.parametrize("slow", [False, True])
def test_suspected_nodes_are_left_out_after_a_requeue(
    cluster: Cluster, home: Path, slow: bool
) -> None:
    (home / "run").mkdir()
    for host, problem, exclude in (("n1", "slow", False), ("n2", "wrong results", True)):
        report = NodeReport(
            unix_time=0, host=host, problem=NodeProblem(problem), detail="x", exclude=exclude
        )
        append_record(home / "run" / NODE_REPORTS_NAME, report)
    options = ("--leave-out-slow-nodes",) if slow else ()
    arguments = (*PATHS, *options, "do=wait", "apart=0")
    job = cluster.submit("--nodes=1", "--ntasks-per-node=2", SCRIPT, *arguments, folder=home)
    cluster.wait_log(job, "waiting", times=2)
    cluster.run("scancel", "--batch", "--signal=USR1", str(job))
    cluster.restart_now(job)
    end = cluster.wait_state(job, "COMPLETED", "FAILED")
    assert end["JobState"] == "COMPLETED", cluster.log(job)
    assert end["ExcNodeList"] == ("n1,n2" if slow else "n2")
    assert end["NodeList"] == ("n3" if slow else "n1")


@pytest.mark.long
def test_ranks_that_hang_after_another_failed_are_ended_and_started_again(
    cluster: Cluster, home: Path
) -> None:
    job = cluster.submit(*TWO_HOSTS, SCRIPT, *PATHS, "do=fail", "until=1", folder=home)
    end = cluster.wait_state(job, "COMPLETED", "FAILED", timeout=900)
    log = cluster.log(job)
    assert (end["JobState"], end["Restarts"]) == ("COMPLETED", "0"), log
    assert "2: RuntimeError: the cause" in log
    assert "n2: task 2: Exited with exit code 3" in log
    assert log.count(": continues") == 4


@pytest.mark.long
def test_a_node_that_starts_no_task_is_left_out_before_slurm_notices(
    cluster: Cluster, home: Path
) -> None:
    """Slurm waits a minute here, five by default, before it calls a silent node down."""
    job = cluster.submit(*TWO_HOSTS, SCRIPT, *PATHS, "do=wait", "apart=0", folder=home)
    cluster.wait_log(job, "waiting", times=4)
    cluster.run("bash", "-c", "kill -9 $(ip netns pids n2)")
    try:
        for rank in (0, 1):
            cluster.kill_task(f"SLURM_PROCID={rank}", "mmbert.pretrain")
        cluster.wait_log(job, "the next start leaves out n2", timeout=1200)
    finally:
        cluster.revive_node("n2")
    cluster.restart_now(job)
    end = cluster.wait_state(job, "COMPLETED", "FAILED", timeout=900)
    assert (end["JobState"], end["NodeList"]) == ("COMPLETED", "n[1,3]"), cluster.log(job)
    reports = list(read_records(home / "run" / NODE_REPORTS_NAME, NodeReport))
    assert [(report.host, report.problem) for report in reports] == [("n2", NodeProblem.DEAD)]


# Real training


@pytest.mark.long
def test_a_killed_rank_is_started_again_and_the_run_ends_in_the_same_bits(
    cluster: Cluster, inputs: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = submit_tiny_job(cluster, inputs, run, "--nodes=2", "--gpus-per-node=1")
    cluster.wait_log(job, "step 30/", timeout=1200)
    cluster.kill_task("SLURM_PROCID=1", "mmbert.pretrain")
    end = cluster.wait_state(job, "COMPLETED", "FAILED", timeout=1200)
    log = cluster.log(job)
    assert (end["JobState"], end["Restarts"]) == ("COMPLETED", "0"), log
    assert "killed: SIGKILL of rank 1 on n2, often for lack of host memory" in log
    assert "mmbert.pretrain" not in cluster.run("ps", "-eo", "args"), "no rank is left behind"
    ended = [start for start in starts(run) if start.status is not None]
    assert [(start.start, start.status) for start in ended] == [(0, 137), (1, 0)]
    assert ended[0].step > 0
    assert losses_and_norms(run) == losses_and_norms(undisturbed)
    assert weights(run) == weights(undisturbed)


@pytest.mark.long
def test_a_host_that_dies_is_replaced_and_left_out(
    cluster: Cluster, inputs: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """Slurm itself requeues the job, which resumes from the last checkpoint on n1 and n3."""
    job = submit_tiny_job(cluster, inputs, tmp_path / "run", "--nodes=2", "--gpus-per-node=1")
    cluster.wait_log(job, "step 30/", timeout=1200)
    cluster.kill_node("n2")
    try:
        cluster.wait_log(job, "the next start leaves out n2", timeout=600)
    finally:
        cluster.revive_node("n2")
    cluster.restart_now(job)
    end = cluster.wait_state(job, "COMPLETED", "FAILED", timeout=1200)
    assert (end["JobState"], end["NodeList"]) == ("COMPLETED", "n[1,3]"), cluster.log(job)
    assert end["ExcNodeList"] == "n2"
    assert losses_and_norms(tmp_path / "run") == losses_and_norms(undisturbed)
    assert weights(tmp_path / "run") == weights(undisturbed)
