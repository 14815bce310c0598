"""Registry and interface of the optimizers available to recipes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mmbert.parallel.zero_fragment import RowState
from mmbert.recipe import OptimizerSettings, ParameterGroup
from mmbert.recipe.optimizers import OPTIMIZER_STATES
from mmbert.schedule import StepSettings
from mmbert.training.engine.adamw import AdamW
from mmbert.training.engine.muon import Muon
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
    def state_names(self) -> Mapping[ParameterGroup, tuple[str, ...]]:
        """Names of the float32 states of a parameter, by its group; saved in checkpoints."""

    def states_of(self, partition: Tensor, span: slice) -> dict[str, Tensor]:
        """Return the states by name of a parameter's span in a partition, as views."""

    def row_states(self) -> Iterable[RowState]:
        """Return the states of the rows of matrices that this rank owns."""

    def attach(self, partitions: Sequence[Tensor], layouts: Sequence[PartitionLayout]) -> None:
        """Create the states of ZeRO's partitions; collective.

        States exist before the first step, so that a checkpoint can be loaded into them.
        """

    def set_step(self, settings: StepSettings) -> None:
        """Apply the settings of the next step: learning rate, weight decay."""

    def metrics(self) -> Mapping[str, Any]:
        """Return scalars of the last step to log, by name; tensors stay on the device."""


Builder = Callable[[nn.Module, OptimizerSettings, torch.device, torch.dtype], ClientOptimizer]
OPTIMIZERS: dict[str, Builder] = {
    "stable_adamw": StableAdamW.build,
    "adamw": AdamW.build,
    "muon": Muon.build,
    "normuon": Muon.build,
}


def build_optimizer(
    model: nn.Module, settings: OptimizerSettings, device: torch.device, dtype: torch.dtype
) -> ClientOptimizer:
    """Create the recipe's optimizer over the model's parameters.

    Args:
        dtype: of the model's passes, and of matrix products in the optimizer.

    Raises:
        RecipeError: the optimizer is for matrices, and the model has none.
    """
    optimizer = OPTIMIZERS[settings.name](model, settings, device, dtype)
    # The planner does not import torch, so it reads the state names from the recipe.
    planned = OPTIMIZER_STATES[settings.name]
    if optimizer.state_names != planned:
        raise RuntimeError(
            f"{settings.name} keeps {optimizer.state_names}, OPTIMIZER_STATES has {planned}"
        )
    return optimizer
