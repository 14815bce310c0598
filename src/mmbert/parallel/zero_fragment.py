"""What a rank holds of a parameter: ZeRO's fragment of it, and states of rows that it owns."""

from dataclasses import dataclass

from torch import Tensor

from mmbert.parallel.parameter_spec import ParameterSpec

MASTER = "master"
"""Key of the float32 master weight in a parameter's states, also in checkpoints."""


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
    states: dict[str, Tensor]
    """`MASTER` and the optimizer's states, by their names in checkpoints."""

    @property
    def name(self) -> str:
        """Name of the parameter in the whole model."""
        return self.spec.name

    @property
    def master(self) -> Tensor:
        """The float32 weight."""
        return self.states[MASTER]


@dataclass(frozen=True)
class RowState:
    """An optimizer's value for each row of a matrix, held by the matrix's owner alone."""

    spec: ParameterSpec
    """Of the parameter that is, or contains, the matrix."""
    state: str
    """Name of the state in checkpoints."""
    start: int
    """First row of the matrix in the parameter's full tensor."""
    values: Tensor
    """float32 [rows of the matrix]; may be written to."""
