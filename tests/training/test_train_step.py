"""A non-finite loss makes every gradient non-finite; a finite loss changes none."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmbert.training.metrics.loss_meter import LossMeter
from mmbert.training.metrics.step_timer import StepTimer
from mmbert.training.train_step import StepRunner

CPU = torch.device("cpu")


class Losses(nn.Module):
    """Return three losses whose gradient is finite, whatever is added to the second."""

    def __init__(self, added: float) -> None:
        super().__init__()
        self.weight, self.added = nn.Parameter(torch.tensor([3.0, 5.0, 7.0])), added

    def forward(self) -> Tensor:
        return self.weight * torch.tensor([1.0, -2.0, 0.1]) + torch.tensor([0, self.added, 0])


def gradient(added: float) -> Tensor:
    """Return the gradient of the losses' sum, as in the engine."""
    module = Losses(added)
    engine: Any = SimpleNamespace(module=module, device=CPU)
    StepRunner(engine, dropout_seed=0, meter=LossMeter(1, CPU), step_timer=StepTimer(CPU))
    module().sum().backward()
    assert module.weight.grad is not None
    return module.weight.grad


@pytest.mark.parametrize("added", [math.inf, -math.inf, math.nan])
def test_one_loss_that_is_not_finite_makes_all_gradients_so(added: float) -> None:
    """A label of probability 0 has a finite gradient: the engine would take the step."""
    assert gradient(added).isnan().all()


def test_finite_losses_leave_the_gradient_as_it_is() -> None:
    assert gradient(1e30).tolist() == torch.tensor([1.0, -2.0, 0.1]).tolist()
