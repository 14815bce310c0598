"""Cosines and sines of rotary position embedding, cached by base and length.

Float32 throughout: at 8,192 tokens the last bits of the frequencies matter, and bfloat16 cannot
distinguish position 8,190 from 8,191.
"""

from functools import lru_cache

import torch
from torch import Tensor

from mmbert_kernels.support.triton_import import next_power_of_2


def position_tables(tokens: int, head_size: int, base: float, device: torch.device) -> Tensor:
    """Return cosine and sine of every position, float32 [at least tokens, 2, head_size / 2]."""
    return tables_of_length(next_power_of_2(tokens), head_size, base, device)


@lru_cache(maxsize=16)
def tables_of_length(length: int, head_size: int, base: float, device: torch.device) -> Tensor:
    """Return the cached table of `length` positions, float32 [length, 2, head_size / 2]."""
    exponents = torch.arange(0, head_size, 2, dtype=torch.float32) / head_size
    # Computed on the host, as in transformers.
    frequencies = (1.0 / (base**exponents)).to(device, non_blocking=True)
    positions = torch.arange(length, dtype=torch.float32, device=device)
    angles = torch.outer(positions, frequencies)
    return torch.stack((angles.cos(), angles.sin()), dim=1)
