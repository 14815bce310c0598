"""slurm/pretrain.sbatch with a stand-in for training: starting, stopping, invalid jobs."""

from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.support.environment import ROOT

SCRIPT = ROOT / "slurm" / "pretrain.sbatch"
PATHS = ("my recipe.yaml", "shards", "run")
GPUS = ("--nodes=2", "--gpus-per-node=2")


def test_starts_one_rank_per_gpu_on_every_node(cluster: Cluster, home: Path) -> None:
    job = cluster.submit(*GPUS, SCRIPT, *PATHS, "do=report", "a.b=1 2", folder=home)
    cluster.wait_state(job, "COMPLETED")
    log = cluster.log(job)
    for rank, (host, local) in enumerate([("n1", 0), ("n1", 1), ("n2", 0), ("n2", 1)]):
        said = (
            f"{rank}: {host} SLURM_STEP_NUM_TASKS=4 SLURM_LOCALID={local} MASTER_ADDR=n1 "
            "CUDA_VISIBLE_DEVICES=0,1 ['--recipe', 'my recipe.yaml', '--data', 'shards', "
            "'--output', 'run', 'do=report', 'a.b=1 2']"
        )
        assert said in log, log
    assert "2 node(s) × 2 task(s) = 4 rank(s), 2 GPU(s)" in log
    assert "--recipe 'my recipe.yaml'" in log, "the command can be copied from the log"


def test_a_node_s_gpus_are_used_without_asking_and_fewer_on_request(
    cluster: Cluster, home: Path
) -> None:
    for options, tasks, devices in (((), 2, "0,1"), (("--gpus-per-node=1",), 1, "0")):
        job = cluster.submit(*options, SCRIPT, *PATHS, "do=report", folder=home)
        cluster.wait_state(job, "COMPLETED")
        log = cluster.log(job)
        assert log.count(f"SLURM_STEP_NUM_TASKS={tasks} ") == tasks, log
        assert log.count(f"CUDA_VISIBLE_DEVICES={devices} ") == tasks, log


def test_without_gpus_the_tasks_are_those_asked_for(home: Path, cluster_folder: Path) -> None:
    cluster = Cluster(cluster_folder.with_suffix(".cpu"), nodes=2, gpus=0)
    try:
        for options, tasks in ((("--nodes=2", "--ntasks-per-node=2"), 4), ((), 1)):
            job = cluster.submit(*options, SCRIPT, *PATHS, "do=report", folder=home)
            cluster.wait_state(job, "COMPLETED")
            log = cluster.log(job)
            assert log.count(f"SLURM_STEP_NUM_TASKS={tasks} ") == tasks, log
    finally:
        cluster.stop()


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    [
        (GPUS, PATHS[:2], "RECIPE, SHARDS and RUN are required, got 2"),
        ((*GPUS, "--ntasks-per-node=1"), PATHS, "1 task(s) but 2 GPU(s) on each node"),
        (("--nodes=2", "--ntasks=3"), PATHS, "3 tasks requested, but 2 node(s) × 2 = 4"),
        ((*GPUS, "--time=15"), PATHS, "too soon to make progress"),
        ((*GPUS, "--export=ALL,MMBERT_HOME=/nowhere"), PATHS, "/nowhere has no slurm/common.bash"),
        ((*GPUS, "--export=ALL,MMBERT_VENV=/nowhere"), PATHS, "there is no /nowhere/bin/python"),
    ],
)
def test_what_cannot_work_is_refused_with_a_remedy(
    cluster: Cluster,
    home: Path,
    options: tuple[str, ...],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    job = cluster.submit(*options, SCRIPT, *arguments, folder=home)
    assert cluster.wait_state(job, "FAILED", "COMPLETED")["ExitCode"] == "2:0"
    log = cluster.log(job)
    assert message in log
    assert "→" in log


@pytest.mark.parametrize("apart", [0, 1])
def test_a_signal_saves_requeues_and_continues(cluster: Cluster, home: Path, apart: int) -> None:
    """Ranks that exit one after another (rank 3 after 3 seconds) must not be killed."""
    job = cluster.submit(*GPUS, SCRIPT, *PATHS, "do=wait", f"apart={apart}", folder=home)
    cluster.wait_log(job, "waiting", times=4)
    cluster.run("scancel", "--batch", "--signal=USR1", str(job))
    cluster.restart_now(job)
    end = cluster.wait_state(job, "COMPLETED", "FAILED")
    log = cluster.log(job)
    assert (end["JobState"], end["Restarts"]) == ("COMPLETED", "1"), log
    assert log.count("received SIGUSR1") == 4
    assert log.count("saved\n") == 4, "every rank came to its end"
    assert log.count(": continues") == 4


def test_a_signal_before_the_ranks_listen_is_no_failure(cluster: Cluster, home: Path) -> None:
    job = cluster.submit(*GPUS, SCRIPT, *PATHS, "do=deaf", folder=home)
    cluster.wait_log(job, "importing", times=4)
    cluster.run("scancel", "--batch", "--signal=USR1", str(job))
    cluster.restart_now(job)
    cluster.wait_state(job, "COMPLETED")
    assert cluster.log(job).count(": continues") == 4


def test_a_preempted_job_leaves_in_time_and_comes_back(cluster: Cluster, home: Path) -> None:
    job = cluster.submit(*GPUS, SCRIPT, *PATHS, "do=wait", "apart=0.5", folder=home)
    cluster.wait_log(job, "waiting", times=4)
    important = cluster.submit(
        "--partition=high", "--nodes=2", "--exclusive", "--wrap=sleep 1", folder=home
    )
    cluster.wait_state(important, "COMPLETED")
    cluster.restart_now(job)
    cluster.wait_state(job, "COMPLETED")
    log = cluster.log(job)
    assert log.count("received SIGTERM") == 4, "Slurm tells the ranks itself"
    assert log.count(": continues") == 4


def test_a_cancelled_job_stays_cancelled(cluster: Cluster, home: Path) -> None:
    job = cluster.submit(*GPUS, SCRIPT, *PATHS, "do=wait", "apart=0.1", folder=home)
    cluster.wait_log(job, "waiting", times=4)
    cluster.run("scancel", str(job))
    cluster.wait_state(job, "CANCELLED")
    log = cluster.log(job)
    assert log.count("saved\n") == 4, log
    assert cluster.job(job)["JobState"] == "CANCELLED"


@pytest.mark.long
def test_tasks_of_an_array_save_and_requeue_themselves_alone(cluster: Cluster, home: Path) -> None:
    """The last task has the number of the whole array, which must not be requeued for it."""
    words = (*PATHS, "one", "two words", "--", "do=wait", "apart=0")
    options = ("--array=0-1", "--nodes=1", "--gpus-per-node=1")
    array = cluster.submit(*options, SCRIPT.with_name("decay.sbatch"), *words, folder=home)
    tasks = [f"{array}_{index}" for index in (0, 1)]
    for task in tasks:
        cluster.wait_log(task, "waiting", timeout=240)
    for task, other in (tasks, tasks[::-1]):
        cluster.run("scancel", "--batch", "--signal=USR1", task)
        cluster.wait_log(task, "saved and requeued", timeout=240)
        if task == tasks[0]:
            assert cluster.job(other)["JobState"] == "RUNNING"
        cluster.restart_now(task)
        end = cluster.wait_state(task, "COMPLETED", timeout=240)
        assert end["Restarts"] == "1", cluster.log(task)
    assert "--variant 'two words'" in cluster.log(tasks[1])
