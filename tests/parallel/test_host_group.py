"""Host-side collectives: sums of counts as large as a run's are exact."""

from datetime import timedelta

import torch.distributed as distributed

from mmbert.errors import ShardsError
from mmbert.parallel.host_group import HostGroup
from tests.support.ranks import run_ranks

# Per rank; the sums are the largest count exact in float64, and one not exact in float32.
COUNTS = ([float(2**53 - 3), float(2**24)], [2.0, 1.0])


def add_up(rank: int, world_size: int) -> list[float]:
    distributed.init_process_group("gloo", rank=rank, world_size=world_size)
    return HostGroup.build(timedelta(seconds=60)).sum(COUNTS[rank])


def test_sums_over_the_ranks_are_exact() -> None:
    assert run_ranks(add_up, 2) == {rank: [2**53 - 1, 2**24 + 1] for rank in (0, 1)}


def test_alone_a_sum_is_ones_own() -> None:
    assert HostGroup(0, 1).sum(COUNTS[0]) == COUNTS[0]


def share_out(rank: int, world_size: int) -> tuple[list[int], str]:
    distributed.init_process_group("gloo", rank=rank, world_size=world_size)
    group = HostGroup.build(timedelta(seconds=60))

    def fail(member: int, members: int) -> None:
        if member == 1:
            raise ShardsError(f"part {member} of {members} is damaged", remedy="mend it")

    try:
        group.share(fail)
    except ShardsError as error:
        return group.share(lambda member, members: 10 * members + member), error.message
    return [], ""


def test_an_error_in_one_part_of_shared_work_is_raised_on_all_ranks() -> None:
    assert run_ranks(share_out, 2) == {
        rank: ([20, 21], "part 1 of 2 is damaged") for rank in (0, 1)
    }
