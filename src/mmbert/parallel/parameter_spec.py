"""How a parameter is sharded, said once; everything that must know reads it from here.

Initialisation, DeepSpeed's norm flags, the summing of replicated gradients, checkpoints and export
all read `parameter.description`. A split parameter is cut along one dimension. Fused parameters
(query, key and value; gate and up) have several parts along it, and every rank holds its share of
each part, so that no share mixes them. Shares are whole units (a head's width, say); where the
number of units need not divide, the first ranks hold one more.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from mmbert.parallel.process_grid import Group


@dataclass(frozen=True)
class InitialDistribution:
    """How a parameter starts: ones, a normal cut at two deviations, or uniform within ±scale."""

    kind: Literal["ones", "truncated_normal", "uniform"]
    scale: float = 1.0
    """Standard deviation before the cut (truncated_normal) or the bound (uniform)."""


@dataclass(frozen=True)
class ParameterDescription:
    """The full tensor behind a parameter and the share of it that a tensor rank holds."""

    full_shape: tuple[int, ...]
    initial: InitialDistribution
    name: str = ""
    """Its name in the whole model, equal to Hugging Face's; set once the model is built."""
    split_dimension: int | None = None
    """None: replicated, every tensor rank holds all of it."""
    parts: tuple[int, ...] = field(default=())
    """Sizes of the fused parts along the split dimension; they sum to its size. Empty: one."""
    unit: int = 1
    """Shares are multiples of this (the last one of a part may hold a rest)."""
    must_divide: bool = True
    """Every rank's share must be equal; otherwise the first ranks may hold one unit more."""
    gradient_is_partial: bool = False
    """Replicated, but used on sharded tokens: its gradient is the sum over the tensor group."""

    def __post_init__(self) -> None:
        if self.split_dimension is None:
            assert not self.parts
            assert self.unit == 1
        else:
            assert 0 <= self.split_dimension < len(self.full_shape)
            assert not self.gradient_is_partial
            assert not self.parts or sum(self.parts) == self.full_shape[self.split_dimension]

    @property
    def is_split(self) -> bool:
        """Whether the tensor ranks hold different shares."""
        return self.split_dimension is not None

    def ranges(self, rank: int, size: int) -> list[tuple[int, int]]:
        """The [start, stop) along the split dimension that `rank` of `size` holds, one per part.

        Their concatenation is the rank's share. A replicated parameter has the one range of
        everything along dimension 0. ValueError if the share must be equal and cannot.
        """
        if self.split_dimension is None:
            return [(0, self.full_shape[0])]
        ranges, offset = [], 0
        for part in self.parts or (self.full_shape[self.split_dimension],):
            if self.must_divide and part % (self.unit * size):
                raise ValueError(
                    f"{self.name or 'parameter'}: {part} along dimension {self.split_dimension} "
                    f"does not divide into {size} shares of whole units of {self.unit}"
                )
            start, stop = balanced_range(part, rank, size, unit=self.unit)
            ranges.append((offset + start, offset + stop))
            offset += part
        return ranges

    def local_shape(self, rank: int, size: int) -> tuple[int, ...]:
        """The shape of `rank`'s share."""
        if self.split_dimension is None:
            return self.full_shape
        shape = list(self.full_shape)
        shape[self.split_dimension] = sum(b - a for a, b in self.ranges(rank, size))
        return tuple(shape)


def balanced_range(length: int, rank: int, size: int, *, unit: int = 1) -> tuple[int, int]:
    """[start, stop) of `rank`'s share of `length` cut into `size` shares of whole `unit`s.

    Shares differ by one unit at most; a rest smaller than a unit goes to the last one.
    """
    units = -(-length // unit)
    each, more = divmod(units, size)
    start = rank * each + min(rank, more)
    stop = start + each + (rank < more)
    return min(start * unit, length), min(stop * unit, length)


def local_slice(full: Tensor, description: ParameterDescription, rank: int, size: int) -> Tensor:
    """The share of the full tensor that tensor rank `rank` of `size` holds (a copy if split)."""
    assert tuple(full.shape) == description.full_shape, (full.shape, description)
    if description.split_dimension is None:
        return full
    dimension = description.split_dimension
    pieces = [full.narrow(dimension, a, b - a) for a, b in description.ranges(rank, size)]
    return torch.cat(pieces, dim=dimension)


def assemble(slices: Sequence[Tensor], description: ParameterDescription) -> Tensor:
    """The full tensor from the shares of all tensor ranks in order: `local_slice` undone."""
    if description.split_dimension is None:
        return slices[0]
    dimension, size = description.split_dimension, len(slices)
    full = slices[0].new_empty(description.full_shape)
    for rank, piece in enumerate(slices):
        assert tuple(piece.shape) == description.local_shape(rank, size), (rank, piece.shape)
        offset = 0
        for start, stop in description.ranges(rank, size):
            part = piece.narrow(dimension, offset, stop - start)
            full.narrow(dimension, start, stop - start).copy_(part)
            offset += stop - start
    return full


def described_parameter(description: ParameterDescription, group: Group) -> nn.Parameter:
    """An uninitialised parameter of the rank's share, on the default device and dtype."""
    parameter = nn.Parameter(torch.empty(description.local_shape(group.rank, group.size)))
    _attach(parameter, description)
    return parameter


def describe(parameter: nn.Parameter) -> ParameterDescription:
    """The description a parallel layer attached to its parameter."""
    description = getattr(parameter, "description", None)
    assert isinstance(description, ParameterDescription)
    return description


def name_parameters(model: nn.Module) -> None:
    """Write each parameter's name in the whole model into its description."""
    for name, parameter in model.named_parameters():
        _attach(parameter, replace(describe(parameter), name=name))


def _attach(parameter: nn.Parameter, description: ParameterDescription) -> None:
    setattr(parameter, "description", description)  # noqa: B010 (torch does not declare it)
    # DeepSpeed adds a gradient to the global norm on every model-parallel rank if the parameter
    # says so, else on rank 0 alone. Its versions ask under one name or the other.
    for flag in ("tensor_model_parallel", "model_parallel"):
        setattr(parameter, flag, description.is_split)
