"""Faults of the network between two hosts: all ranks leave in time and name the peer.

The same command then continues to the same bits as an undisturbed run.
"""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.two_hosts import Ranks, cut_link, lose_packets, restore_link, training
from tests.support.job_processes import wait_for
from tests.support.tiny_run import losses_and_norms, weights

pytestmark = pytest.mark.timeout(3600)  # a busy machine takes many times as long
# More than a start takes on a busy machine.
HANG_SECONDS = 90.0
OFTEN = "checkpoint.every_tokens=10k"
OVERRIDES = (f"guard.hang_minutes={HANG_SECONDS / 60}", OFTEN)
STEPS = 40
HOSTS = ("n1", "n2")


@pytest.fixture(scope="module")
def undisturbed(
    three_nodes: Cluster, inputs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Folder of an undisturbed run of two ranks on one host."""
    folder = tmp_path_factory.mktemp("undisturbed")
    ranks = Ranks(three_nodes, ("n1", "n1"), folder, training(inputs, folder / "run", OFTEN))
    assert ranks.wait(1200) == [0, 0], ranks.outputs
    assert len(losses_and_norms(folder / "run")) == STEPS
    return folder / "run"


@pytest.fixture
def hosts(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, whose links are sound again after the test."""
    if shutil.which("iptables") is None:
        pytest.skip("needs iptables")
    yield cluster
    restore_link(cluster, "n2")
    cluster.resume_node("n2")


def steps_done(run: Path) -> int:
    """Return the last step in the run's log."""
    return max(losses_and_norms(run), default=0) if (run / "log.jsonl").exists() else 0


@pytest.mark.long
def test_a_link_that_is_cut_ends_all_ranks_in_time(
    hosts: Cluster, inputs: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = training(inputs, run, *OVERRIDES)
    ranks = Ranks(hosts, HOSTS, tmp_path / "cut", command)
    wait_for(lambda: steps_done(run) >= 13, 1200)
    cut_link(hosts, "n2")
    begin = time.monotonic()
    statuses = ranks.wait(3 * HANG_SECONDS)
    seconds = time.monotonic() - begin
    assert statuses == [1, 1], ranks.outputs
    assert seconds < 1.5 * HANG_SECONDS, ranks.outputs
    assert "rank 1 (host n2, process" in ranks.output(0)
    assert "rank 0 (host n1) does not answer rank 1 (host n2)" in ranks.output(1)
    assert steps_done(run) < STEPS

    restore_link(hosts, "n2")
    again = Ranks(hosts, HOSTS, tmp_path / "again", command)
    assert again.wait(1200) == [0, 0], again.outputs
    assert "continuing from" in again.output(0)
    assert losses_and_norms(run) == losses_and_norms(undisturbed)
    assert weights(run) == weights(undisturbed)


@pytest.mark.long
def test_a_link_that_loses_packets_ends_the_ranks_or_only_delays_them(
    hosts: Cluster, inputs: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """TCP sends again what was lost: nothing wrong arrives, but a step may take longer than the
    hang limit."""
    run = tmp_path / "run"
    command = training(inputs, run, *OVERRIDES)
    ranks = Ranks(hosts, HOSTS, tmp_path / "loss", command)
    wait_for(lambda: steps_done(run) >= 13, 1200)
    lose_packets(hosts, "n2")
    statuses = ranks.wait(1200)
    restore_link(hosts, "n2")
    if statuses != [0, 0]:
        assert statuses == [1, 1], ranks.outputs
        named = (
            "the network is slow or loses packets: a question from rank 1 (host n2) to rank 0",
            "rank 1 (host n2, process",
            "rank 0 (host n1) does not answer rank 1 (host n2)",
        )
        assert any(text in ranks.outputs for text in named), ranks.outputs
        again = Ranks(hosts, HOSTS, tmp_path / "again", command)
        assert again.wait(1200) == [0, 0], again.outputs
    assert losses_and_norms(run) == losses_and_norms(undisturbed)
    assert weights(run) == weights(undisturbed)
