"""Rotary position embedding on packed queries and keys, positions restarting at every document.

For a head of size D, position p and i in [0, D/2), with the angle p * base^(-2i/D):

    first'[i]  = first[i] * cos - second[i] * sin        (first, second: the halves of the head)
    second'[i] = second[i] * cos + first[i] * sin

Angles, cosines and sines are float32 (bfloat16 cannot tell position 8,190 from 8,191). Values
are not rotated. The backward pass is the rotation by the opposite angle. Source: Su et al. 2021
(RoFormer), in the half-split form of GPT-NeoX and ModernBERT.
"""

import torch
from torch import Tensor

from mmbert_kernels.checks import computation_dtype, require
from mmbert_kernels.sequences import check_cu_seqlens, token_positions


def rotary(qkv: Tensor, cu_seqlens: Tensor, base: float) -> Tensor:
    """Rotate the queries and keys of `qkv`.

    Args:
        qkv: [T, 3, H, D], D even: queries, keys, values.
        cu_seqlens: int32 [documents + 1]: 0, the end of each document, up to T.
        base: the rotary base (theta).

    Returns:
        [T, 3, H, D] with queries and keys rotated and values as they were. `qkv` is left as it is.

    Raises:
        ValueError: shapes do not fit.
    """
    require(
        qkv.ndim == 4 and qkv.shape[1] == 3 and qkv.shape[3] % 2 == 0,
        f"rotary: qkv must be [T, 3, H, D] with an even D; got {list(qkv.shape)}",
    )
    check_cu_seqlens(cu_seqlens)
    require(base > 0, f"rotary: the base must be positive; got {base}")
    return rotary_reference(qkv, cu_seqlens, base)


def rotary_reference(qkv: Tensor, cu_seqlens: Tensor, base: float) -> Tensor:
    """`rotary` in plain PyTorch."""
    cosine, sine = rotation_tables(cu_seqlens, qkv.shape[0], qkv.shape[3], base)
    compute = computation_dtype(qkv.dtype)
    cosine, sine = cosine[:, None, None, :].to(compute), sine[:, None, None, :].to(compute)
    first, second = qkv[:, :2].to(compute).chunk(2, dim=-1)
    rotated = torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)
    return torch.cat((rotated.to(qkv.dtype), qkv[:, 2:]), dim=1)


def rotation_tables(
    cu_seqlens: Tensor, tokens: int, head_size: int, base: float
) -> tuple[Tensor, Tensor]:
    """(cosine, sine), float32 [tokens, head_size / 2] each: the rotation of every token."""
    exponents = torch.arange(0, head_size, 2, device=cu_seqlens.device, dtype=torch.float32)
    frequencies = base ** (-exponents / head_size)
    positions = token_positions(cu_seqlens, tokens).to(torch.float32)
    angles = torch.outer(positions, frequencies)
    return angles.cos(), angles.sin()
