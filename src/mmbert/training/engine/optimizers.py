"""Registry and interface of the optimizers available to recipes."""

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
    """The engine's interface to an optimizer, which is also a `torch.optim.Optimizer`.

    "Client optimizer" is DeepSpeed's term for an optimizer created by the caller. It is created
    over the model's parameters, which ZeRO then replaces by flat float32 partitions.
    """

    steps: int
    """Number of steps taken, including those of earlier runs; saved in checkpoints."""

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the float32 states of a partition, of its shape; saved in checkpoints."""

    @property
    def state(self) -> Mapping[Tensor, Mapping[str, Any]]:
        """States of each partition by name."""

    def attach(self, partitions: Sequence[Tensor], layouts: Sequence[PartitionLayout]) -> None:
        """Create the states of ZeRO's partitions; collective.

        States exist before the first step, so that a checkpoint can be loaded into them.
        """

    def set_step(self, settings: StepSettings) -> None:
        """Apply the settings of the next step: learning rate, weight decay."""

    def metrics(self) -> Mapping[str, Any]:
        """Return scalars of the last step to log, by name; tensors stay on the device."""


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
    # The planner does not import torch, so it reads the state names from the recipe.
    if optimizer.state_names != settings.state_names:
        raise RuntimeError(
            f"{settings.name} keeps {optimizer.state_names}, OPTIMIZER_STATES has "
            f"{settings.state_names}"
        )
    return optimizer
