"""Full tensors from the shards of all tensor ranks."""

from collections.abc import Sequence

from torch import Tensor

from mmbert.parallel.parameter_spec import ParameterSpec


def assemble(slices: Sequence[Tensor], spec: ParameterSpec) -> Tensor:
    """Return the full tensor of the shards of all tensor ranks, in order: the inverse of
    `local_slice`."""
    if spec.split_dimension is None:
        return slices[0]
    dimension, size = spec.split_dimension, len(slices)
    full = slices[0].new_empty(spec.full_shape)
    for rank, piece in enumerate(slices):
        assert tuple(piece.shape) == spec.local_shape(rank, size), (rank, piece.shape)
        offset = 0
        for start, stop in spec.ranges(rank, size):
            part = piece.narrow(dimension, offset, stop - start)
            full.narrow(dimension, start, stop - start).copy_(part)
            offset += stop - start
    return full
