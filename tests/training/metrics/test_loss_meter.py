"""Sums of losses by component, over rows and ranks."""

import numpy as np
import pytest
import torch
import torch.distributed as distributed

from mmbert.data.sampling.loss_table import LossTable
from mmbert.parallel.process_grid import DataGroup, build_grid
from mmbert.training.metrics.loss_meter import LossMeter
from tests.support.ranks import run_ranks


def test_losses_are_summed_by_component_and_empty_slots_left_out() -> None:
    meter = LossMeter(3, torch.device("cpu"))
    for scale in (1.0, 10.0):
        meter.add(
            torch.tensor([1.0, 2.0, 3.0, 0.0]) * scale,
            torch.tensor([1.0, 1.0, 1.0, 0.0]),
            torch.tensor([2, 0, 2, -1]),
        )
    sums = meter.collect(DataGroup.single())
    assert sums.loss.tolist() == [22.0, 0.0, 44.0]
    assert sums.count.tolist() == [2.0, 0.0, 4.0]
    assert sums.mean() == pytest.approx(11.0)
    assert sums.mean(np.array([2])) == pytest.approx(11.0)
    assert sums.mean(np.array([1])) is None
    assert meter.collect(DataGroup.single()).count.sum() == 0


def collect(rank: int, world_size: int) -> tuple[LossTable, LossTable]:
    distributed.init_process_group("gloo", rank=rank, world_size=world_size)
    grid = build_grid()
    meter = LossMeter(2, torch.device("cpu"))
    meter.add(torch.tensor([rank + 1.0]), torch.ones(1), torch.tensor([rank]))
    return meter.collect(grid.data), meter.collect(grid.data)


def test_every_rank_gets_the_sums_of_all() -> None:
    for first, second in run_ranks(collect, 2).values():
        assert first.loss.tolist() == [1.0, 2.0]
        assert first.count.tolist() == [1.0, 1.0]
        assert second.count.tolist() == [0.0, 0.0]
