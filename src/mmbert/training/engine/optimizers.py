"""Optimizers that a recipe may name, and the interface through which the engine uses them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mmbert.recipe import OptimizerSettings
from mmbert.schedule import StepSettings
from mmbert.training.engine.adamw import AdamW
from mmbert.training.engine.partitions import PartitionLayout
from mmbert.training.engine.stable_adamw import StableAdamW


class ClientOptimizer(Protocol):
    """The engine's view of an optimizer; it is a `torch.optim.Optimizer` besides.

    DeepSpeed calls an optimizer that it does not make itself a client optimizer. It receives the
    model's parameters; ZeRO then replaces them by flat float32 partitions.
    """

    steps: int
    """Steps taken, including those of earlier runs; saved in checkpoints."""

    @property
    def state_names(self) -> tuple[str, ...]:
        """Keys of the float32 tensors kept per partition, each of its shape; checkpoints hold
        them."""

    @property
    def state(self) -> Mapping[Tensor, Mapping[str, Any]]:
        """The states of each partition, by name."""

    def attach(self, partitions: Sequence[Tensor], layouts: Sequence[PartitionLayout]) -> None:
        """Create the states of ZeRO's partitions, so that a checkpoint can be loaded before a step.

        Collective.
        """

    def set_step(self, settings: StepSettings) -> None:
        """Set the learning rate, weight decay and so on of the next step."""

    def metrics(self) -> Mapping[str, Any]:
        """Scalars of the last step, logged by name; tensors stay on the device."""


Builder = Callable[[nn.Module, OptimizerSettings, torch.device], ClientOptimizer]
OPTIMIZERS: dict[str, Builder] = {
    "stable_adamw": StableAdamW.build,
    "adamw": AdamW.build,
}


def build_optimizer(
    model: nn.Module, settings: OptimizerSettings, device: torch.device
) -> ClientOptimizer:
    """Create the recipe's optimizer over the model's parameters."""
    optimizer = OPTIMIZERS[settings.name](model, settings, device)
    # The planner counts the states without loading torch.
    if optimizer.state_names != settings.state_names:
        raise RuntimeError(
            f"{settings.name} keeps {optimizer.state_names}, the recipe says {settings.state_names}"
        )
    return optimizer
