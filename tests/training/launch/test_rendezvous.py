"""Rank 0 hosts the store of the ranks and leaves last."""

import threading
import time
from datetime import timedelta

import torch.distributed as distributed

from mmbert.training.launch.rendezvous import leave_together


def _stores(world_size: int) -> list[distributed.Store]:
    host = distributed.TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=60), False)
    others = [
        distributed.TCPStore("127.0.0.1", host.port, None, False, timedelta(seconds=60), False)
        for _ in range(world_size - 1)
    ]
    return [host, *others]


def test_rank_zero_waits_for_the_others() -> None:
    stores = _stores(3)
    gone: list[int] = []

    def leave(rank: int) -> None:
        leave_together(stores[rank], rank, 3, seconds=60)
        gone.append(rank)

    first = threading.Thread(target=leave, args=(0,))
    first.start()
    leave(1)
    time.sleep(0.3)
    assert gone == [1]
    leave(2)
    first.join(60)
    assert gone == [1, 2, 0]


def test_rank_zero_does_not_wait_forever_for_a_rank_that_died() -> None:
    leave_together(_stores(2)[0], 0, 2, seconds=0.1)
