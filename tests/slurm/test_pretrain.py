"""slurm/pretrain.sbatch with the real training program on a virtual cluster of three hosts.

Every test compares bitwise with a run on one host: losses and gradient norms of all steps, and the
tensors of the last checkpoint.
"""

import sys
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.support.tiny_run import ENVIRONMENT, ROOT, losses_and_norms, weights

SCRIPT = ROOT / "slurm" / "pretrain.sbatch"
# Lasts some seconds, long enough to be interrupted.
LONGER = ("phases.pretrain.tokens=80k", "phases.extension.tokens=80k")
STEPS = 2 * 79  # 80,000 tokens in steps of 4 rows of 256
ONE_HOST, TWO_HOSTS = ("--nodes=1", "--gpus-per-node=2"), ("--nodes=2", "--gpus-per-node=1")


class Runner:
    """Submits runs of the tiny recipe to the cluster."""

    def __init__(self, cluster: Cluster, inputs: Path, folder: Path) -> None:
        self._cluster, self._inputs, self._folder = cluster, inputs, folder

    def submit(self, options: tuple[str, ...], run: Path, *overrides: str) -> int:
        """Submit the script as a user would and return the job id."""
        return self._cluster.submit(
            *(*options, f"--output={self._folder}/%x-%j.log", SCRIPT),
            *(self._inputs / "recipe.yaml", self._inputs / "shards", run, *LONGER, *overrides),
            folder=ROOT,
            environment={**ENVIRONMENT, "MMBERT_VENV": sys.prefix},
        )


@pytest.fixture
def runner(cluster: Cluster, inputs: Path, tmp_path: Path) -> Runner:
    return Runner(cluster, inputs, tmp_path)


@pytest.fixture(scope="module")
def undisturbed(
    three_nodes: Cluster, inputs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Folder of an uninterrupted run of two ranks on one host."""
    folder = tmp_path_factory.mktemp("undisturbed")
    job = Runner(three_nodes, inputs, folder).submit(ONE_HOST, folder / "run")
    end = three_nodes.wait_state(job, "COMPLETED", "FAILED", timeout=300)
    assert end["JobState"] == "COMPLETED", three_nodes.log(job)
    assert len(losses_and_norms(folder / "run")) == STEPS
    return folder / "run"


def assert_same(run: Path, undisturbed: Path) -> None:
    """Compare the metrics of all steps and the final weights bitwise."""
    assert losses_and_norms(run) == losses_and_norms(undisturbed)
    assert weights(run) == weights(undisturbed)


@pytest.mark.long
def test_two_hosts_train_as_one(
    cluster: Cluster, runner: Runner, undisturbed: Path, tmp_path: Path
) -> None:
    job = runner.submit(TWO_HOSTS, tmp_path / "run")
    end = cluster.wait_state(job, "COMPLETED", "FAILED", timeout=300)
    log = cluster.log(job)
    assert end["JobState"] == "COMPLETED", log
    assert "rank 0 listens at n1:" in log
    assert_same(tmp_path / "run", undisturbed)


@pytest.mark.long
def test_tensor_parallel_ranks_on_two_hosts(
    cluster: Cluster, runner: Runner, tmp_path: Path
) -> None:
    grid = ("parallel.tensor=2", "parallel.zero_stage=2")
    for options, run in ((ONE_HOST, tmp_path / "one"), (TWO_HOSTS, tmp_path / "two")):
        job = runner.submit(options, run, *grid)
        end = cluster.wait_state(job, "COMPLETED", "FAILED", timeout=300)
        assert end["JobState"] == "COMPLETED", cluster.log(job)
        assert "1 data ranks × 2 tensor ranks, ZeRO 2" in cluster.log(job)
    assert len(losses_and_norms(tmp_path / "one")) == STEPS
    assert_same(tmp_path / "two", tmp_path / "one")


@pytest.mark.long
def test_disturbed_twice_it_continues_to_the_same_bits(
    cluster: Cluster, runner: Runner, undisturbed: Path, tmp_path: Path
) -> None:
    """First by a preempting job, then by the signal before the time limit."""
    job = runner.submit(TWO_HOSTS, tmp_path / "run")
    cluster.wait_log(job, "step 20/", timeout=240)
    important = cluster.submit(
        *("--partition=high", "--nodes=2", "--exclusive", "--wrap=sleep 1"), folder=tmp_path
    )
    cluster.wait_state(important, "COMPLETED")
    cluster.restart_now(job)
    cluster.wait_log(job, "step 100/", timeout=240)
    cluster.run("scancel", "--batch", "--signal=USR1", str(job))
    cluster.restart_now(job)
    end = cluster.wait_state(job, "COMPLETED", "FAILED", timeout=300)
    log = cluster.log(job)
    assert (end["JobState"], end["Restarts"]) == ("COMPLETED", "2"), log
    assert "received SIGTERM" in log
    assert "received SIGUSR1" in log
    assert log.count("saved and requeued") == 2
    assert_same(tmp_path / "run", undisturbed)


@pytest.mark.long
def test_slurm_s_own_signal_before_the_time_limit_saves_and_requeues(
    cluster: Cluster, runner: Runner, tmp_path: Path
) -> None:
    """A 25-minute limit with the signal 1,400 seconds before it: sent after 40 to 100 seconds."""
    options = (*TWO_HOSTS, "--time=25", "--signal=B:USR1@1400")
    job = runner.submit(options, tmp_path / "run", "phases.pretrain.tokens=100M")
    cluster.wait_log(job, "saved and requeued", timeout=300)
    state = cluster.wait_state(job, "PENDING")
    assert state["Restarts"] == "1"
    log = cluster.log(job)
    assert "received USR1: telling the ranks to save and exit" in log
    saved = max((tmp_path / "run" / "checkpoints").glob("step-*"))
    assert saved.name == f"step-{max(losses_and_norms(tmp_path / 'run')):08}"


@pytest.mark.long
def test_a_wrong_recipe_is_said_once_and_not_tried_again(
    cluster: Cluster, runner: Runner, tmp_path: Path
) -> None:
    job = runner.submit(TWO_HOSTS, tmp_path / "run", "batch.rowz=4")
    assert cluster.wait_state(job, "FAILED", timeout=240)["ExitCode"] == "2:0"
    log = cluster.log(job)
    assert log.count("did you mean 'rows'") == 1, log
    assert "do what the arrow above says and submit again" in log
