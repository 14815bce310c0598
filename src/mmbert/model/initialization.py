"""First weights: the same full tensors at any grid, from the seed and the parameter's name.

Every parameter is drawn in blocks of rows, each from its own generator (SFC64, seeded with a hash
of seed, name and block), on the CPU in float32. A rank draws only the blocks that hold its rows.
The distributions are in the parameters' descriptions; for this model they are Megatron's as mmBERT
used them: normals of deviation 0.02, or 0.02 / sqrt(2 * layers) for what writes to the residual
stream, cut at two deviations; norm weights 1; the tied decoder's bias uniform within 1 / sqrt(d),
as torch's linear leaves it.
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
# The cut of the truncated normal in deviations, and the probability below -CUT.
CUT = 2.0
TAIL = 0.5 * math.erfc(CUT / math.sqrt(2))


def initialize_parameters(model: MaskedLanguageModel, seed: int) -> None:
    """Fill every parameter of `model` with its shard of the full tensor that `seed` gives.

    Works for any dtype and device of the parameters. The model must have no buffers.
    """
    assert not list(model.buffers()), "buffers are not initialised here"
    group = model.group
    with torch.no_grad():
        for parameter in model.parameters():
            spec = spec_of(parameter)
            parameter.copy_(initial_values(spec, seed, group.rank, group.size))


def initial_values(spec: ParameterSpec, seed: int, rank: int = 0, size: int = 1) -> Tensor:
    """float32 shard of tensor rank `rank` of `size`: `local_slice` of the full first tensor."""
    if spec.initial.kind == "ones":
        return torch.full(spec.local_shape(rank, size), spec.initial.scale)
    rows = spec.full_shape[0]
    if spec.split_dimension == 0:
        ranges = spec.ranges(rank, size)
        return torch.cat([_draw_rows(spec, seed, a, b) for a, b in ranges])
    return local_slice(_draw_rows(spec, seed, 0, rows), spec, rank, size)


def _draw_rows(spec: ParameterSpec, seed: int, start: int, stop: int) -> Tensor:
    """Rows [start, stop) of the full tensor."""
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
    """Uniform numbers in [0, 1) -> the distribution, through its inverse cumulative function."""
    if initial.kind == "uniform":
        return uniform.mul_(2 * initial.scale).sub_(initial.scale)
    quantile = uniform.mul_(1 - 2 * TAIL).add_(TAIL)
    normal = torch.erfinv(quantile.mul_(2).sub_(1)).mul_(math.sqrt(2))
    return normal.clamp_(-CUT, CUT).mul_(initial.scale)
