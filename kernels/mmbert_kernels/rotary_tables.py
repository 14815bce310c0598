"""The cosines and sines of rotary position embedding, computed once for a base and a length.

All in float32: at 8,192 tokens the last bits of the frequencies show, and bfloat16 cannot tell
position 8,190 from 8,191.
"""

from functools import lru_cache

import torch
from torch import Tensor

from mmbert_kernels.support.triton_import import next_power_of_2


def position_tables(tokens: int, head_size: int, base: float, device: torch.device) -> Tensor:
    """float32 [at least tokens, 2, head_size / 2]: the cosines and sines of every position."""
    return tables_of_length(next_power_of_2(tokens), head_size, base, device)


@lru_cache(maxsize=16)
def tables_of_length(length: int, head_size: int, base: float, device: torch.device) -> Tensor:
    """float32 [length, 2, head_size / 2]; the same tensor for the same arguments."""
    exponents = torch.arange(0, head_size, 2, dtype=torch.float32) / head_size
    # on the host, as transformers computes them
    frequencies = (1.0 / (base**exponents)).to(device, non_blocking=True)
    positions = torch.arange(length, dtype=torch.float32, device=device)
    angles = torch.outer(positions, frequencies)
    return torch.stack((angles.cos(), angles.sin()), dim=1)
