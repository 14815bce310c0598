"""How a parameter is sharded, said once; everything that must know reads it from here.

Initialisation, DeepSpeed's norm flags, the summing of replicated gradients, checkpoints and export
all read `parameter.spec`. A split parameter is cut along one dimension. Fused parameters
(query, key and value; gate and up) have several parts along it, and every rank holds its shard of
each part, so that no shard mixes them. Shares are whole units (a head's width, say); where the
number of units need not divide, the first ranks hold one more.
"""

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
class ParameterSpec:
    """The full tensor behind a parameter and the shard of it that a tensor rank holds."""

    full_shape: tuple[int, ...]
    initial: InitialDistribution
    name: str = ""
    """Its name in the whole model, equal to Hugging Face's; set once the model is built."""
    split_dimension: int | None = None
    """None: replicated, every tensor rank holds all of it."""
    fused_sizes: tuple[int, ...] = field(default=())
    """Sizes of the fused parts along the split dimension; they sum to its size. Empty: one."""
    granularity: int = 1
    """Shares are multiples of this (the last one of a part may hold a rest)."""
    require_even: bool = True
    """Every rank's shard must be equal; otherwise the first ranks may hold one unit more."""
    sequence_parallel: bool = False
    """Replicated, but used on sharded tokens: its gradient is the sum over the tensor group."""

    def __post_init__(self) -> None:
        if self.split_dimension is None:
            assert not self.fused_sizes
            assert self.granularity == 1
        else:
            assert 0 <= self.split_dimension < len(self.full_shape)
            assert not self.sequence_parallel
            assert (
                not self.fused_sizes
                or sum(self.fused_sizes) == self.full_shape[self.split_dimension]
            )

    @property
    def is_split(self) -> bool:
        """Whether the tensor ranks hold different shards."""
        return self.split_dimension is not None

    def ranges(self, rank: int, size: int) -> list[tuple[int, int]]:
        """The [start, stop) along the split dimension that `rank` of `size` holds, one per part.

        Their concatenation is the rank's shard. A replicated parameter has the one range of
        everything along dimension 0. ValueError if the shard must be equal and cannot.
        """
        if self.split_dimension is None:
            return [(0, self.full_shape[0])]
        ranges, offset = [], 0
        for part in self.fused_sizes or (self.full_shape[self.split_dimension],):
            if self.require_even and part % (self.granularity * size):
                raise ValueError(
                    f"{self.name or 'parameter'}: {part} along dimension {self.split_dimension} "
                    f"does not divide into {size} shards of whole units of {self.granularity}"
                )
            start, stop = balanced_range(part, rank, size, granularity=self.granularity)
            ranges.append((offset + start, offset + stop))
            offset += part
        return ranges

    def local_shape(self, rank: int, size: int) -> tuple[int, ...]:
        """The shape of `rank`'s shard."""
        if self.split_dimension is None:
            return self.full_shape
        shape = list(self.full_shape)
        shape[self.split_dimension] = sum(b - a for a, b in self.ranges(rank, size))
        return tuple(shape)


def balanced_range(length: int, rank: int, size: int, *, granularity: int = 1) -> tuple[int, int]:
    """[start, stop) of `rank`'s shard of `length` cut into `size` shards of whole `granularity`s.

    Shares differ by one unit at most; a rest smaller than a unit goes to the last one.
    """
    granules = -(-length // granularity)
    each, more = divmod(granules, size)
    start = rank * each + min(rank, more)
    stop = start + each + (rank < more)
    return min(start * granularity, length), min(stop * granularity, length)


def local_slice(full: Tensor, spec: ParameterSpec, rank: int, size: int) -> Tensor:
    """The shard of the full tensor that tensor rank `rank` of `size` holds (a copy if split)."""
    assert tuple(full.shape) == spec.full_shape, (full.shape, spec)
    if spec.split_dimension is None:
        return full
    dimension = spec.split_dimension
    pieces = [full.narrow(dimension, a, b - a) for a, b in spec.ranges(rank, size)]
    return torch.cat(pieces, dim=dimension)


def empty_parameter(spec: ParameterSpec, group: Group) -> nn.Parameter:
    """An uninitialised parameter of the rank's shard, on the default device and dtype."""
    parameter = nn.Parameter(torch.empty(spec.local_shape(group.rank, group.size)))
    _attach(parameter, spec)
    return parameter


def spec_of(parameter: nn.Parameter) -> ParameterSpec:
    """The description a parallel layer attached to its parameter."""
    spec = getattr(parameter, "spec", None)
    assert isinstance(spec, ParameterSpec)
    return spec


def name_parameters(model: nn.Module) -> None:
    """Write each parameter's name in the whole model into its description."""
    for name, parameter in model.named_parameters():
        _attach(parameter, replace(spec_of(parameter), name=name))


def _attach(parameter: nn.Parameter, spec: ParameterSpec) -> None:
    setattr(parameter, "spec", spec)  # noqa: B010 (torch does not declare it)
    # DeepSpeed adds a gradient to the global norm on every model-parallel rank if the parameter
    # says so, else on rank 0 alone. Its versions ask under one name or the other.
    for flag in ("tensor_model_parallel", "model_parallel"):
        setattr(parameter, flag, spec.is_split)
