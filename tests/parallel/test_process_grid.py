"""Position of every rank in the grid, and the members of its groups."""

from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist

from mmbert.errors import UserError
from mmbert.parallel.process_grid import ProcessGrid, build_grid, check_grid
from tests.support.ranks import run_ranks
from tests.support.simulated_ranks import simulated_rank


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


@pytest.mark.parametrize(("device", "backend"), [("cuda", "nccl"), ("cpu", None)])
def test_a_rank_of_many_makes_two_groups_for_its_device_only(
    device: str, backend: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[list[int], dict[str, Any]]] = []
    new_group = dist.new_group

    def noted(ranks: list[int], **options: Any) -> Any:
        made.append((ranks, options))
        return new_group(ranks, **(options | {"backend": None}))  # none here has NCCL

    monkeypatch.setattr(dist, "new_group", noted)
    timeout = timedelta(minutes=7)
    with simulated_rank(515, 1024):
        build_grid(tensor_parallel=2, device=torch.device(device), timeout=timeout)
    expected = {"backend": backend, "timeout": timeout, "use_local_synchronization": True}
    assert made == [([514, 515], expected), (list(range(1, 1024, 2)), expected)]
