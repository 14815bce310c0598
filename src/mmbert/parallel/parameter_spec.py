"""Sharding specifications of parameters, the single source of truth.

Initialization, DeepSpeed's norm flags, the all-reduce of replicated gradients, optimizers,
checkpoints and export all read `parameter.spec`. A split parameter is sharded along one dimension.
Fused parameters (query, key and value; gate and up) have several parts along it, and each part is
sharded separately. Shards consist of whole units (such as a head's width). If uneven shards are
allowed, the first ranks may hold one unit more.
"""

from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from mmbert.parallel.process_grid import Group
from mmbert.recipe import ParameterGroup


@dataclass(frozen=True)
class InitialDistribution:
    """Initial distribution: ones, a normal truncated at two standard deviations, or uniform."""

    kind: Literal["ones", "truncated_normal", "uniform"]
    scale: float = 1.0
    """Standard deviation before truncation (truncated_normal) or the bound ±scale (uniform)."""


@dataclass(frozen=True)
class ParameterSpec:
    """A parameter's full tensor and its sharding over a tensor group."""

    full_shape: tuple[int, ...]
    initial: InitialDistribution
    name: str = ""
    """Full name in the model, equal to Hugging Face's; set when the model is complete."""
    group: ParameterGroup = "rest"
    split_dimension: int | None = None
    """Sharded dimension; None if replicated."""
    fused_sizes: tuple[int, ...] = field(default=())
    """Sizes of the fused parts, which sum to the split dimension's; empty for a single part."""
    granularity: int = 1
    """Size of a unit: shards are multiples of it (a part's last shard may have a remainder)."""
    require_even: bool = True
    """Whether all shards must have the same size; otherwise the first may be one unit larger."""
    sequence_parallel: bool = False
    """Whether the parameter is replicated but used on sharded tokens, so that its gradient is
    partial and must be summed over the group."""

    def __post_init__(self) -> None:
        assert self.group != "matrices" or len(self.full_shape) == 2
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
        """Whether the tensor ranks hold different shards (not copies)."""
        return self.split_dimension is not None

    @property
    def matrix_rows(self) -> tuple[tuple[int, int], ...]:
        """Ranges [start, stop) of rows of the full tensor that are one matrix each: the fused parts
        (query, key and value; gate and up), or all rows. Of the group "matrices" only."""
        assert self.group == "matrices"
        sizes = self.fused_sizes if self.split_dimension == 0 else ()
        ends = list(accumulate(sizes or (self.full_shape[0],)))
        return tuple(pairwise([0, *ends]))

    def ranges(self, rank: int, size: int) -> list[tuple[int, int]]:
        """Return the [start, stop) ranges of `rank` along the split dimension, one per part.

        Their concatenation is the rank's shard. A replicated parameter has a single range, all of
        dimension 0. ValueError if even shards are required but impossible.
        """
        if self.split_dimension is None:
            return [(0, self.full_shape[0])]
        ranges, offset = [], 0
        for part in self.fused_sizes or (self.full_shape[self.split_dimension],):
            if self.require_even and part % (self.granularity * size):
                raise ValueError(
                    f"{self.name or 'parameter'}: {part} along dimension {self.split_dimension} "
                    f"is not divisible into {size} shards with granularity {self.granularity}"
                )
            start, stop = balanced_range(part, rank, size, granularity=self.granularity)
            ranges.append((offset + start, offset + stop))
            offset += part
        return ranges

    def local_shape(self, rank: int, size: int) -> tuple[int, ...]:
        """Return the shape of `rank`'s shard."""
        if self.split_dimension is None:
            return self.full_shape
        shape = list(self.full_shape)
        shape[self.split_dimension] = sum(b - a for a, b in self.ranges(rank, size))
        return tuple(shape)


def balanced_range(length: int, rank: int, size: int, *, granularity: int = 1) -> tuple[int, int]:
    """Return [start, stop) of `rank`'s shard of `length`, in multiples of `granularity`.

    Shards differ by at most one unit; a remainder smaller than a unit
    belongs to the last shard that is not empty.
    """
    granules = -(-length // granularity)
    each, more = divmod(granules, size)
    start = rank * each + min(rank, more)
    stop = start + each + (rank < more)
    return min(start * granularity, length), min(stop * granularity, length)


def local_slice(full: Tensor, spec: ParameterSpec, rank: int, size: int) -> Tensor:
    """Return the shard of the full tensor on tensor rank `rank` of `size` (a copy if split)."""
    assert tuple(full.shape) == spec.full_shape, (full.shape, spec)
    if spec.split_dimension is None:
        return full
    dimension = spec.split_dimension
    pieces = [full.narrow(dimension, a, b - a) for a, b in spec.ranges(rank, size)]
    return torch.cat(pieces, dim=dimension)


def empty_parameter(spec: ParameterSpec, group: Group) -> nn.Parameter:
    """Create an uninitialized parameter for the rank's shard, on the default device and dtype."""
    parameter = nn.Parameter(torch.empty(spec.local_shape(group.rank, group.size)))
    _attach(parameter, spec)
    return parameter


def spec_of(parameter: nn.Parameter) -> ParameterSpec:
    """Return the spec attached to a parallel layer's parameter."""
    spec = getattr(parameter, "spec", None)
    assert isinstance(spec, ParameterSpec)
    return spec


def name_parameters(model: nn.Module) -> None:
    """Store each parameter's full name in its spec."""
    for name, parameter in model.named_parameters():
        _attach(parameter, replace(spec_of(parameter), name=name))


def _attach(parameter: nn.Parameter, spec: ParameterSpec) -> None:
    setattr(parameter, "spec", spec)  # noqa: B010 (torch does not declare it)
    # DeepSpeed counts a gradient in the global norm on every model-parallel rank if the parameter
    # has this flag, else on rank 0 only. The flag's name depends on its version.
    for flag in ("tensor_model_parallel", "model_parallel"):
        setattr(parameter, flag, spec.is_split)
