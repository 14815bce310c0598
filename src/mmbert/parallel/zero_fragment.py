"""What ZeRO left of a parameter on this rank: float32 master and optimiser states, as views."""

from dataclasses import dataclass

from torch import Tensor

from mmbert.parallel.parameter_spec import ParameterSpec

STATES = ("master", "exp_avg", "exp_avg_sq")
"""The tensors kept per parameter, as they are called in checkpoints."""


@dataclass(frozen=True)
class ParameterFragment:
    """Elements [start, start + length) of this tensor rank's flattened share of one parameter.

    The tensors are float32 [length] views into ZeRO's own partition: writing to them and then
    `Engine.sync_model_weights()` changes the model.
    """

    spec: ParameterSpec
    tensor_rank: int
    tensor_size: int
    start: int
    length: int
    master: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor

    @property
    def name(self) -> str:
        """The parameter's name in the whole model."""
        return self.spec.name

    def states(self) -> dict[str, Tensor]:
        """The tensors by name, in the order of `STATES`."""
        return {name: getattr(self, name) for name in STATES}
