"""ZeRO's fragment of a parameter on this rank: views of float32 master and optimizer states."""

from dataclasses import dataclass

from torch import Tensor

from mmbert.parallel.parameter_spec import ParameterSpec

STATES = ("master", "exp_avg", "exp_avg_sq")
"""Names of the tensors per parameter, as in checkpoints."""


@dataclass(frozen=True)
class ParameterFragment:
    """Elements [start, start + length) of this tensor rank's flattened shard of one parameter.

    The tensors are float32 [length] views into ZeRO's partition; after writing to them, call
    `Engine.sync_model_weights()` to update the model.
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
        """Name of the parameter in the whole model."""
        return self.spec.name

    def states(self) -> dict[str, Tensor]:
        """Return the tensors by name, in the order of `STATES`."""
        return {name: getattr(self, name) for name in STATES}
