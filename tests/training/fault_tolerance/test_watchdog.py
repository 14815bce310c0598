"""Reports of hanging ranks, from their heartbeats."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as distributed

from mmbert.parallel.host_group import HostGroup
from mmbert.training.engine.host_sync import HostSync
from mmbert.training.fault_tolerance.hangs.hang_report import report_stragglers
from mmbert.training.fault_tolerance.hangs.watchdog import Activity, Heartbeat, Watchdog

WAITING = Heartbeat(
    rank=0,
    host="n1",
    process=10,
    count=7,
    progress=20,
    step=4,
    activity=Activity.TRAIN_STEP,
    in_collective=True,
    idle_seconds=9.0,
)
STACKS = {rank: f"stack of rank {rank}" for rank in range(3)}


def heartbeats(*changes: dict[str, object]) -> dict[int, Heartbeat]:
    return {rank: replace(WAITING, rank=rank, **change) for rank, change in enumerate(changes)}  # type: ignore[arg-type]


def test_the_rank_that_is_furthest_behind_is_named_with_its_stack() -> None:
    told = heartbeats({}, {"progress": 19, "activity": Activity.READ_ROWS, "host": "n2"}, {})
    message = report_stragglers(told, [0, 1, 2], STACKS, 3)
    assert message.startswith("rank 1 (host n2, process 10) hangs in step 4, reading rows")
    assert "stack of rank 1" in message
    assert "rank 0" not in message


def test_among_equals_the_one_outside_a_collective_is_named() -> None:
    told = heartbeats({}, {}, {"in_collective": False})
    message = report_stragglers(told, [0, 1, 2], STACKS, 3)
    assert message.startswith("rank 2 ")
    assert "rank 0" not in message


def test_a_silent_rank_is_named_before_any_other() -> None:
    told = heartbeats({}, {"process": 55}, {"progress": 3})
    message = report_stragglers(told, [0, 2], STACKS, 3)
    assert message.startswith("rank 1 (host n1, process 55) is unresponsive")


def test_a_rank_that_never_spoke_is_named() -> None:
    told = heartbeats({}, {})
    assert report_stragglers(told, [0, 1], STACKS, 3) == "rank 2 has never reported"


def test_when_all_wait_for_each_other_the_slow_link_is_named() -> None:
    """As on a network that loses packets: no rank is behind, and each message takes long."""
    told = heartbeats({}, {"host": "n2", "store_seconds": 4.25}, {"store_seconds": 0.01})
    message = report_stragglers(told, [0, 1, 2], STACKS, 3)
    assert message.startswith("all ranks wait for each other in step 4, forward, backward and")
    assert "a question from rank 1 (host n2) to rank 0 (host n1) took 4.2 s" in message
    assert "rank 2" not in message


def test_a_link_between_two_other_hosts_is_suspected_when_the_rest_is_sound() -> None:
    told = heartbeats({}, {"host": "n2"}, {"host": "n3"})
    message = report_stragglers(told, [0, 1, 2], STACKS, 3)
    assert "every host reaches rank 0's host n1" in message
    assert "a link between two of the others may be cut: n2, n3" in message


def test_on_one_host_the_network_is_not_blamed() -> None:
    message = report_stragglers(heartbeats({}, {}, {}), [0, 1, 2], STACKS, 3)
    assert message.count("hangs in step 4") == 3


def published_by(tmp_path: Path, stand: Callable[[Callable[[], None]], None]) -> Heartbeat:
    """Return the heartbeat published while `stand` runs in the main thread."""
    store = distributed.HashStore()
    watchdog = Watchdog(
        rank=0, world_size=2, timeout_seconds=3600, run_folder=tmp_path, store=store
    )
    try:
        stand(lambda: watchdog._publish(1, 0.0))
        return Heartbeat(**json.loads(store.get("heartbeat/0")))
    finally:
        watchdog.close()


def test_a_rank_that_waits_for_a_message_is_told_from_one_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait_for_a_message(publish: Callable[[], None]) -> None:
        monkeypatch.setattr(distributed, "barrier", lambda group: publish())
        HostGroup(0, 2, group=object()).barrier()

    assert published_by(tmp_path, wait_for_a_message).in_collective
    assert not published_by(tmp_path, lambda publish: publish()).in_collective


def test_a_rank_that_reads_the_figures_of_a_step_waits(tmp_path: Path) -> None:
    """On a GPU it waits for the device there, and so for the queued collectives."""

    class Norm:
        """A norm on a device that has not computed it yet."""

        def __init__(self, publish: Callable[[], None]) -> None:
            self._publish = publish

        def detach(self) -> torch.Tensor:
            self._publish()
            return torch.ones(())

    def read_figures(publish: Callable[[], None]) -> None:
        module: Any = type("DeepSpeed's", (), {"is_invalid_grad_norm": None})
        host_sync = HostSync(module)
        with host_sync.patched_norm_check(torch.zeros(0, dtype=torch.float64)):
            module.is_invalid_grad_norm(Norm(publish))

    assert published_by(tmp_path, read_figures).in_collective
