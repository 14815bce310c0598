"""Rotary position embedding, with a packed result and with three tensors."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

import mmbert_kernels as kernels
from mmbert_kernels.rotary_embedding.rotary import rotary_unpacked
from tests.kernels.case import (
    LENGTHS,
    Benchmark,
    Case,
    Problem,
    Sizes,
    cumulative,
    document_lengths,
    normal,
)

BASE = 160_000.0


def formula(qkv: Tensor, lengths: Sequence[int], base: float) -> Tensor:
    """Rotate by complex multiplication, in float64."""
    qkv = qkv.double()
    half = qkv.shape[3] // 2
    positions = torch.cat([torch.arange(length) for length in lengths]).to(qkv.device)
    frequencies = torch.tensor([base ** (-i / half) for i in range(half)], dtype=torch.float64)
    angles = torch.outer(positions.double(), frequencies.to(qkv.device))
    turn = torch.polar(torch.ones_like(angles), angles)[:, None, None, :]
    turned = torch.complex(qkv[:, :2, :, :half], qkv[:, :2, :, half:]) * turn
    return torch.cat((torch.cat((turned.real, turned.imag), dim=-1), qkv[:, 2:]), dim=1)


def roundings(dtype: torch.dtype) -> float:
    """Return the tolerance. Angles are always float32: at position 128 their rounding error is 128
    times that at position 1; in float64 the tables are the largest error."""
    return {torch.float64: 128 * 2.0**29, torch.float32: 256}.get(dtype, 2)


def qkv_and_lengths(sizes: Sizes, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    qkv = normal(sizes.tokens, 3, sizes.heads, sizes.head_size, dtype=dtype)
    return qkv, cumulative(sizes.lengths, padding=3)


def packed(sizes: Sizes, dtype: torch.dtype) -> Problem:
    return Problem(
        qkv_and_lengths(sizes, dtype),
        # A copy, because the operation may modify its argument in place.
        lambda qkv, cu_seqlens: kernels.rotary(qkv * 1, cu_seqlens, BASE),
        lambda qkv, cu_seqlens: formula(qkv, document_lengths(cu_seqlens), BASE),
    )


def unpacked(sizes: Sizes, dtype: torch.dtype) -> Problem:
    return Problem(
        qkv_and_lengths(sizes, dtype),
        lambda qkv, cu_seqlens: rotary_unpacked(qkv * 1, cu_seqlens, BASE),
        lambda qkv, cu_seqlens: formula(qkv, document_lengths(cu_seqlens), BASE).unbind(1),
    )


def benchmarks(sizes: Sizes, dtype: torch.dtype) -> Iterator[Benchmark]:
    row = sizes.tokens * sizes.width * dtype.itemsize
    cu_seqlens, length = cumulative(sizes.lengths), sizes.lengths[0]
    qkv = normal(sizes.tokens, 3 * sizes.width, dtype=dtype)  # as a linear returns it

    def by_heads(qkv: Tensor) -> Tensor:
        return qkv.view(sizes.tokens, 3, sizes.heads, sizes.head_size)

    yield Benchmark(
        "rotary",
        (qkv,),
        lambda qkv: kernels.rotary(by_heads(qkv), cu_seqlens, 1e4),
        lambda qkv: eager(by_heads(qkv), length),
        4 * row,
        8 * row,
    )
    yield Benchmark(
        "rotary, unpacked",
        (qkv,),
        lambda qkv: rotary_unpacked(by_heads(qkv), cu_seqlens, 1e4),
        lambda qkv: eager(by_heads(qkv), length).unbind(1),
        4 * row,
        10 * row,
    )


def eager(qkv: Tensor, length: int) -> Tensor:
    """Apply RoPE to documents of one length in plain PyTorch."""
    size = qkv.shape[3]
    positions = torch.arange(qkv.shape[0], device=qkv.device) % length
    frequencies = 1e4 ** (-torch.arange(0, size, 2, device=qkv.device) / size)
    angles = torch.outer(positions.float(), frequencies).repeat(1, 2)[:, None, None, :]
    first, second = qkv[:, :2].chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    rotated = qkv[:, :2] * angles.cos() + turned * angles.sin()
    return torch.cat((rotated.to(qkv.dtype), qkv[:, 2:]), dim=1)


SIZES = tuple(
    Sizes(LENGTHS, heads=heads, head_size=size) for heads, size in ((2, 16), (3, 64), (1, 24))
)
UNEVEN = (Sizes((5, 1, 17, 9), heads=3, head_size=24),)
CASES = (
    Case(
        "rotary",
        packed,
        SIZES,
        roundings,
        triton_kernels=("_rotate_kernel",),
        trace_names=("_Rotary",),
        benchmarks=benchmarks,
    ),
    # More sizes are in test_triton_rotary.py; few here, because the interpreter is slow.
    Case("rotary-unpacked", unpacked, UNEVEN, roundings, triton_kernels=("_rotate_kernel",)),
)
