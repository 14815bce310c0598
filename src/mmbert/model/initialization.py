"""Random initial weights, independent of the process grid.

A parameter is drawn in blocks of rows, each from its own generator (SFC64, seeded with a hash of
seed, name and block), on the CPU in float32. A rank draws only the blocks that contain its rows.
The distributions are in the parameters' specs; for this model they are Megatron's as used by
mmBERT: normals with standard deviation 0.02, or 0.02 / sqrt(2 * layers) for linears that write to
the residual stream, truncated at two standard deviations; norm weights 1; the tied decoder's bias
uniform within 1 / sqrt(d), the default of torch's linear.
"""

import hashlib
import math

import numpy as np
import torch
from torch import Tensor

from mmbert.model.modernbert import MaskedLanguageModel
from mmbert.parallel.parameter_spec import (
    InitialDistribution,
    ParameterSpec,
    local_slice,
    spec_of,
)

BLOCK_ROWS = 4096
# Truncation of the normal in standard deviations, and the normal's probability below -CUT.
CUT = 2.0
TAIL = 0.5 * math.erfc(CUT / math.sqrt(2))


def initialize_parameters(model: MaskedLanguageModel, seed: int) -> None:
    """Initialize every parameter of `model` with its shard of the full tensor drawn from `seed`.

    Parameters may have any dtype and device. The model must not have buffers.
    """
    assert not list(model.buffers()), "buffers are not initialized here"
    group = model.group
    with torch.no_grad():
        for parameter in model.parameters():
            spec = spec_of(parameter)
            parameter.copy_(initial_values(spec, seed, group.rank, group.size))


def initial_values(spec: ParameterSpec, seed: int, rank: int = 0, size: int = 1) -> Tensor:
    """Return the float32 shard of tensor rank `rank` of `size` of the full initial tensor."""
    if spec.initial.kind == "ones":
        return torch.full(spec.local_shape(rank, size), spec.initial.scale)
    rows = spec.full_shape[0]
    if spec.split_dimension == 0:
        ranges = spec.ranges(rank, size)
        return torch.cat([_draw_rows(spec, seed, a, b) for a, b in ranges])
    return local_slice(_draw_rows(spec, seed, 0, rows), spec, rank, size)


def _draw_rows(spec: ParameterSpec, seed: int, start: int, stop: int) -> Tensor:
    """Draw rows [start, stop) of the full tensor."""
    blocks = []
    for block in range(start // BLOCK_ROWS, -(-stop // BLOCK_ROWS)):
        first = block * BLOCK_ROWS
        values = _draw_block(spec, seed, block)
        blocks.append(values[max(start - first, 0) : stop - first])
    return torch.cat(blocks) if blocks else torch.empty(0, *spec.full_shape[1:])


def _draw_block(spec: ParameterSpec, seed: int, block: int) -> Tensor:
    rows = min(BLOCK_ROWS, spec.full_shape[0] - block * BLOCK_ROWS)
    identity = f"{seed}/{spec.name}/{block}".encode()
    entropy = int.from_bytes(hashlib.sha256(identity).digest(), "little")
    generator = np.random.Generator(np.random.SFC64(entropy))
    shape = (rows, *spec.full_shape[1:])
    uniform = torch.from_numpy(generator.random(shape, dtype=np.float32))
    return _transform(uniform, spec.initial)


def _transform(uniform: Tensor, initial: InitialDistribution) -> Tensor:
    """Transform uniform numbers in [0, 1) by the distribution's inverse CDF."""
    if initial.kind == "uniform":
        return uniform.mul_(2 * initial.scale).sub_(initial.scale)
    quantile = uniform.mul_(1 - 2 * TAIL).add_(TAIL)
    normal = torch.erfinv(quantile.mul_(2).sub_(1)).mul_(math.sqrt(2))
    return normal.clamp_(-CUT, CUT).mul_(initial.scale)
