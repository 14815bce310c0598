"""Process grid of tensor-parallel and data-parallel groups, passed explicitly.

Rank r has tensor rank r % T and data rank r // T: tensor groups are innermost, on adjacent devices
of one node, because they communicate the most. A group of size one needs no process group; all
collectives of this package are then the identity, so that runs on one device and on many share
the same code.
"""

from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from mmbert.errors import LauncherError

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Group:
    """A process group, this process's rank in it and its size."""

    group: dist.ProcessGroup | None
    rank: int
    size: int

    def __post_init__(self) -> None:
        assert 0 <= self.rank < self.size
        assert self.group is not None or self.size == 1, "several ranks need a process group"


@dataclass(frozen=True)
class TensorGroup(Group):
    """The ranks that hold the shards of one copy of the model."""

    @staticmethod
    def single() -> "TensorGroup":
        """Return the group of an unsharded model; torch.distributed need not be initialized."""
        return TensorGroup(group=None, rank=0, size=1)


@dataclass(frozen=True)
class DataGroup(Group):
    """The ranks that hold the same shard of the model and train on different rows."""

    @staticmethod
    def single() -> "DataGroup":
        """Return the group of a single copy; torch.distributed need not be initialized."""
        return DataGroup(group=None, rank=0, size=1)


@dataclass(frozen=True)
class ProcessGrid:
    """This process's tensor group, data group and global rank."""

    tensor: TensorGroup
    data: DataGroup
    rank: int
    world_size: int

    @staticmethod
    def single() -> "ProcessGrid":
        """Return the grid of one process without torch.distributed."""
        return ProcessGrid(TensorGroup.single(), DataGroup.single(), rank=0, world_size=1)


def build_grid(
    *, tensor_parallel: int = 1, device: torch.device = CPU, timeout: timedelta | None = None
) -> ProcessGrid:
    """Build the grid over all processes of torch.distributed, or over this one if uninitialized.

    Collective: every process must pass the same size. LauncherError if `tensor_parallel` does not
    divide the number of processes.

    Args:
        device: device of the tensors that the groups send. For a GPU they have NCCL only: torch
            would make a gloo group for CPU tensors beside each, with a connection from every rank
            to every other one, which nothing uses.
        timeout: of a collective; default: torch's own for the backend.
    """
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    check_grid(world_size=world_size, tensor_parallel=tensor_parallel)
    if not dist.is_initialized():
        return ProcessGrid.single()
    rank = dist.get_rank()
    data_parallel = world_size // tensor_parallel
    tensor_rank, data_rank = rank % tensor_parallel, rank // tensor_parallel
    # With local synchronization only a group's members take part, which scales to thousands of
    # ranks: each makes two groups, not all of the grid's. Where NCCL splits them from the default
    # group's communicator, every rank of that must split at once: each is in one of either kind.
    backend = "nccl" if device.type == "cuda" else None  # None: that of the default group
    tensor_group = dist.new_group(
        [data_rank * tensor_parallel + i for i in range(tensor_parallel)],
        timeout=timeout,
        backend=backend,
        use_local_synchronization=True,
    )
    data_group = dist.new_group(
        [i * tensor_parallel + tensor_rank for i in range(data_parallel)],
        timeout=timeout,
        backend=backend,
        use_local_synchronization=True,
    )
    return ProcessGrid(
        tensor=TensorGroup(tensor_group, tensor_rank, tensor_parallel),
        data=DataGroup(data_group, data_rank, data_parallel),
        rank=rank,
        world_size=world_size,
    )


def check_grid(*, world_size: int, tensor_parallel: int) -> None:
    """Raise LauncherError unless `tensor_parallel` divides `world_size`."""
    if tensor_parallel < 1 or world_size % tensor_parallel:
        raise LauncherError(
            f"parallel.tensor ({tensor_parallel}) does not divide the number of processes "
            f"({world_size})",
            remedy="start a multiple of parallel.tensor processes, or change parallel.tensor "
            f"to one of {[n for n in range(1, world_size + 1) if world_size % n == 0]}",
        )
