"""PyTorch's AdamW, with weight decay relative to the peak learning rate."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmbert.parallel.zero_fragment import RowState
from mmbert.recipe import OptimizerSettings
from mmbert.schedule import StepSettings
from mmbert.training.engine.partitions import (
    MOMENTS,
    MOMENTS_OF_ALL,
    PartitionLayout,
    parameter_groups,
)


class AdamW(torch.optim.AdamW):
    """A `ClientOptimizer` with one ZeRO partition per parameter group."""

    state_names = MOMENTS_OF_ALL

    @classmethod
    def build(
        cls, model: nn.Module, settings: OptimizerSettings, device: torch.device, dtype: torch.dtype
    ) -> "AdamW":
        """Create the optimizer over the model's parameters."""
        groups = parameter_groups(model, settings.rate_factors)
        for group in groups:
            group["lr_max"] = settings.learning_rate
        return cls(
            groups,
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.eps,
            fused=device.type == "cuda",
        )

    @property
    def steps(self) -> int:
        """Steps taken, including those of earlier runs."""
        return max(int(state["step"]) for state in self.state.values())

    @steps.setter
    def steps(self, steps: int) -> None:
        for state in self.state.values():
            state["step"].fill_(steps)

    def states_of(self, partition: Tensor, span: slice) -> dict[str, Tensor]:
        """Return the states by name of a parameter's span in a partition, as views."""
        return {name: self.state[partition][name][span] for name in MOMENTS}

    def row_states(self) -> Iterable[RowState]:
        """Return no states of rows."""
        return ()

    def attach(self, partitions: Sequence[Tensor], layouts: Sequence[PartitionLayout]) -> None:
        """Create zero states for the partitions."""
        for partition in partitions:
            self.state[partition] = {
                "step": torch.zeros((), device=partition.device if partition.is_cuda else "cpu"),
                "exp_avg": torch.zeros_like(partition, requires_grad=False),
                "exp_avg_sq": torch.zeros_like(partition, requires_grad=False),
            }

    def set_step(self, settings: StepSettings) -> None:
        """Set the learning rate and weight decay of the next step."""
        for group in self.param_groups:
            group["lr"] = settings.learning_rate * group["rate_factor"]
            # PyTorch multiplies by the learning rate; the recipe's decay is relative to its peak.
            decay = settings.weight_decay / group["lr_max"] / group["rate_factor"]
            group["weight_decay"] = decay if group["decays"] else 0.0

    def metrics(self) -> dict[str, Any]:
        """Return StableAdamW's metric as 0, so that log lines have the same keys."""
        return {"update_rms_clipped_share": 0.0}
