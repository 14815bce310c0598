"""Tests of the helper that runs real ranks."""

import os
import time

import pytest
import torch
import torch.distributed as dist

from tests.support.ranks import run_ranks


def _sum_ranks(rank: int, world_size: int, offset: int) -> float:
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    value = torch.tensor(float(rank + offset))
    dist.all_reduce(value)
    return float(value)


def _fail_on_one(rank: int, world_size: int) -> None:
    if rank == 1:
        raise ValueError("this rank fails")
    time.sleep(30)


def _vanish(rank: int, world_size: int) -> None:
    os._exit(1)


def test_ranks_reduce_together() -> None:
    assert run_ranks(_sum_ranks, 2, 10) == {0: 21.0, 1: 21.0}


def test_a_failing_rank_is_named_with_its_traceback() -> None:
    with pytest.raises(RuntimeError, match=r"rank 1 of 2 failed(.|\n)*this rank fails"):
        run_ranks(_fail_on_one, 2)


def test_a_killed_rank_does_not_hang_the_test() -> None:
    with pytest.raises(TimeoutError, match=r"no result from ranks \[0\]"):
        run_ranks(_vanish, 1, timeout=3)
