"""Engine protocols for saving and loading, so that reading a checkpoint imports no engine."""

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch

from mmbert.parallel.parameter_spec import ParameterSpec
from mmbert.parallel.process_grid import ProcessGrid
from mmbert.parallel.zero_fragment import ParameterFragment, RowState


class SavableEngine(Protocol):
    """Engine interface required for saving."""

    @property
    def grid(self) -> ProcessGrid:
        """Process grid of the model."""

    @property
    def device(self) -> torch.device:
        """Device of the fragments' tensors."""

    @property
    def zero_stage(self) -> int:
        """ZeRO stage, recorded in the index for information."""

    @property
    def steps_taken(self) -> int:
        """Optimizer steps so far, including those before a resume."""

    def fragments(self) -> Iterable[ParameterFragment]:
        """Return this rank's fragments of all parameters, as writable views."""

    def row_states(self) -> Iterable[RowState]:
        """Return the optimizer's states of the rows of matrices that this rank owns, writable."""


class LoadableEngine(SavableEngine, Protocol):
    """Engine interface required for loading."""

    @property
    def specs(self) -> Sequence[ParameterSpec]:
        """Specs of all model parameters, including those not held by this rank."""

    def set_steps_taken(self, steps: int) -> None:
        """Set the step counter."""

    def sync_model_weights(self) -> None:
        """Copy the master weights of the fragments to the model's weights. Collective."""
