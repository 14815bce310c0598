"""One rank of a thousand in this process: torch's fake backend, and DeepSpeed's own partitions.

A collective of the fake backend returns at once and sends nothing. So what a rank has (its groups,
rows, partitions, checkpoint share) is that of a real run, and what it computes from others is not.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch.distributed as distributed
from torch.testing._internal.distributed.fake_pg import FakeStore

from mmbert.parallel.process_grid import ProcessGrid
from mmbert.parallel.zero_fragment import ParameterFragment
from mmbert.recipe import Recipe


@contextmanager
def simulated_rank(rank: int, world_size: int) -> Iterator[None]:
    """Be rank `rank` of `world_size` ranks."""
    distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def simulated_engine(model: torch.nn.Module, recipe: Recipe, grid: ProcessGrid) -> Any:
    """Return the engine of this (simulated) rank.

    Without the check that the elements of all ranks cover every tensor, which sums over ranks;
    `StableAdamW.attach` is given the sums that it wants.
    """
    from mmbert.training.engine.engine import Engine
    from mmbert.training.engine.stable_adamw import StableAdamW

    def wanted(self: StableAdamW, sums: torch.Tensor, layout: Any) -> torch.Tensor:
        return torch.stack([layout.full_sizes, layout.full_sizes], dim=1)

    with mock.patch.object(StableAdamW, "sum_over_ranks", wanted):
        return Engine(model, recipe, grid, torch.device("cpu"))


def fragments_of_data_rank(engine: Any, data_rank: int) -> list[ParameterFragment]:
    """Return the fragments of another data rank than the engine's under ZeRO 1 in bfloat16.

    DeepSpeed maps its parameters to the partition of that rank, as when it starts there. The
    tensors are the engine's own: places and lengths are that rank's, values are not.
    """
    from deepspeed.runtime import bf16_optimizer

    zero = engine._zero_view._zero
    for _, parameter in engine._parameters:
        parameter._hp_mapping = None
    with mock.patch.object(bf16_optimizer.dist, "get_rank", return_value=data_rank):
        zero._link_all_hp_params()
    return list(engine.fragments())
