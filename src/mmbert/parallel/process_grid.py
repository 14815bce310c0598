"""The grid of ranks: tensor-parallel groups inside data-parallel ones, passed as values.

Rank r has tensor rank r % T and data rank r // T: tensor groups are innermost, so that they sit on
neighbouring devices of one node, where the most talkative collectives belong. A group of size one
needs no process group; every collective of this package is then the identity, so one device and
many run the same code.
"""

from dataclasses import dataclass

import torch.distributed as dist

from mmbert.errors import UserError


@dataclass(frozen=True)
class Group:
    """Ranks that communicate: the process group, this process's rank in it and its size."""

    group: dist.ProcessGroup | None
    rank: int
    size: int

    def __post_init__(self) -> None:
        assert 0 <= self.rank < self.size
        assert self.group is not None or self.size == 1, "several ranks need a process group"


@dataclass(frozen=True)
class TensorGroup(Group):
    """The ranks that hold the slices of one copy of the model."""

    @staticmethod
    def single() -> "TensorGroup":
        """A whole model in one process; torch.distributed need not be initialised."""
        return TensorGroup(group=None, rank=0, size=1)


@dataclass(frozen=True)
class DataGroup(Group):
    """The ranks that hold the same slice of the model and see different rows."""

    @staticmethod
    def single() -> "DataGroup":
        """The only copy of the model; torch.distributed need not be initialised."""
        return DataGroup(group=None, rank=0, size=1)


@dataclass(frozen=True)
class ProcessGrid:
    """This process's place among all: its tensor group, its data group and its global rank."""

    tensor: TensorGroup
    data: DataGroup
    rank: int
    world_size: int

    @staticmethod
    def single() -> "ProcessGrid":
        """The grid of one process without torch.distributed."""
        return ProcessGrid(TensorGroup.single(), DataGroup.single(), rank=0, world_size=1)


def build_grid(*, tensor_parallel: int = 1) -> ProcessGrid:
    """The grid over all processes of torch.distributed, or over this one if it is not initialised.

    Every process must call this with the same size. UserError if `tensor_parallel` does not divide
    the number of processes.
    """
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    check_grid(world_size=world_size, tensor_parallel=tensor_parallel)
    if not dist.is_initialized():
        return ProcessGrid.single()
    rank = dist.get_rank()
    data_parallel = world_size // tensor_parallel
    tensor_rank, data_rank = rank % tensor_parallel, rank // tensor_parallel
    # With local synchronisation only the members meet, so thousands of ranks build in one step.
    tensor_group = dist.new_group(
        [data_rank * tensor_parallel + i for i in range(tensor_parallel)],
        use_local_synchronization=True,
    )
    data_group = dist.new_group(
        [i * tensor_parallel + tensor_rank for i in range(data_parallel)],
        use_local_synchronization=True,
    )
    return ProcessGrid(
        tensor=TensorGroup(tensor_group, tensor_rank, tensor_parallel),
        data=DataGroup(data_group, data_rank, data_parallel),
        rank=rank,
        world_size=world_size,
    )


def check_grid(*, world_size: int, tensor_parallel: int) -> None:
    """UserError unless `world_size` processes fall into whole groups of `tensor_parallel`."""
    if tensor_parallel < 1 or world_size % tensor_parallel:
        raise UserError(
            f"parallel.tensor is {tensor_parallel}, but the run has {world_size} process(es), "
            "which do not fall into groups of that size",
            remedy="start a multiple of parallel.tensor processes, or change parallel.tensor "
            f"to one of {[n for n in range(1, world_size + 1) if world_size % n == 0]}",
        )
