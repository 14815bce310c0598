"""Position of every rank in the grid, and the members of its groups."""

import pytest
import torch
import torch.distributed as dist

from mmbert.errors import UserError
from mmbert.parallel.process_grid import ProcessGrid, build_grid, check_grid
from tests.support.ranks import run_ranks


def place(rank: int, world_size: int, tensor_parallel: int) -> tuple[object, ...]:
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    grid = build_grid(tensor_parallel=tensor_parallel)
    members = []
    for group in (grid.tensor, grid.data):
        ranks = [torch.zeros((), dtype=torch.int64) for _ in range(group.size)]
        dist.all_gather(ranks, torch.tensor(rank), group=group.group)
        members.append([int(r) for r in ranks])
        assert members[-1][group.rank] == rank
    assert (grid.rank, grid.world_size) == (rank, world_size)
    return grid.tensor.rank, grid.data.rank, *members


@pytest.mark.parametrize(
    ("tensor_parallel", "expected"),
    [
        (
            2,
            {
                0: (0, 0, [0, 1], [0, 2]),
                1: (1, 0, [0, 1], [1, 3]),
                2: (0, 1, [2, 3], [0, 2]),
                3: (1, 1, [2, 3], [1, 3]),
            },
        ),
        (1, {rank: (0, rank, [rank], [0, 1, 2, 3]) for rank in range(4)}),
    ],
)
def test_tensor_groups_are_innermost(tensor_parallel: int, expected: object) -> None:
    assert run_ranks(place, 4, tensor_parallel) == expected


def test_one_process_needs_no_torch_distributed() -> None:
    assert not dist.is_initialized()
    assert build_grid(tensor_parallel=1) == ProcessGrid.single()
    with pytest.raises(UserError, match=r"parallel\.tensor \(2\) does not divide .* \(1\)"):
        build_grid(tensor_parallel=2)


def test_groups_that_do_not_divide_the_processes_are_refused() -> None:
    check_grid(world_size=6, tensor_parallel=3)
    with pytest.raises(
        UserError, match=r"parallel\.tensor \(4\) does not divide .* \(6\)"
    ) as error:
        check_grid(world_size=6, tensor_parallel=4)
    assert "[1, 2, 3, 6]" in error.value.remedy
