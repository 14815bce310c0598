"""Rotary position embedding on packed queries and keys, positions restarting at every document.

For a head of size D, position p and i in [0, D/2), with the angle p * base^(-2i/D):

    first'[i]  = first[i] * cos - second[i] * sin        (first, second: the halves of the head)
    second'[i] = second[i] * cos + first[i] * sin

Angles, cosines and sines are float32 (bfloat16 cannot tell position 8,190 from 8,191). Values
are not rotated. The backward pass is the rotation by the opposite angle. Source: Su et al. 2021
(RoFormer), in the half-split form of GPT-NeoX and ModernBERT.

The Triton kernel works in place, forward on the argument and backward on the gradient, so that
values are not touched and no memory is taken.
"""

# ruff: noqa: N803  (Triton's compile-time arguments are written in capitals)

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from mmbert_kernels.checks import computation_dtype, require, require_triton_dtype
from mmbert_kernels.implementation import implementation
from mmbert_kernels.sequences import check_cu_seqlens, token_positions
from mmbert_kernels.triton_support import blocks, next_power_of_2, tl, triton

# Tokens of a program, which computes their angles once for all heads.
TOKENS = 16


def rotary(qkv: Tensor, cu_seqlens: Tensor, base: float) -> Tensor:
    """Rotate the queries and keys of `qkv`, which is given away.

    Args:
        qkv: [T, 3, H, D], D even: queries, keys, values. Not to be used afterwards: its memory may
            be the result's. A tensor whose own gradient is wanted (a leaf) is copied first.
        cu_seqlens: int32 [documents + 1]: 0, the end of each document, up to T.
        base: the rotary base (theta).

    Returns:
        [T, 3, H, D] with queries and keys rotated and values as they were. Its gradient is given
        away too.

    Raises:
        ValueError: shapes do not fit.
    """
    require(
        qkv.ndim == 4 and qkv.shape[1] == 3 and qkv.shape[3] % 2 == 0,
        f"rotary: qkv must be [T, 3, H, D] with an even D; got {list(qkv.shape)}",
    )
    check_cu_seqlens(cu_seqlens)
    require(base > 0, f"rotary: the base must be positive; got {base}")
    cu_seqlens = cu_seqlens.contiguous()
    if implementation("rotary", qkv.device.type) == "reference":
        return rotary_reference(qkv, cu_seqlens, base)
    require_triton_dtype("rotary", qkv)
    if qkv.is_leaf and qkv.requires_grad:
        qkv = qkv.clone()
    rotated: Tensor = _Rotary.apply(qkv, cu_seqlens, base)
    return rotated


def rotary_reference(qkv: Tensor, cu_seqlens: Tensor, base: float) -> Tensor:
    """`rotary` in plain PyTorch."""
    rotated: Tensor = _RotaryReference.apply(qkv, cu_seqlens, base)
    return rotated


class _RotaryReference(torch.autograd.Function):
    """Written out so that each element is read and written few times, forward and backward."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cu_seqlens: Tensor, base: float) -> Tensor:
        tables = rotation_tables(cu_seqlens, qkv.shape[0], qkv.shape[3], base)
        ctx.save_for_backward(*tables)
        return _rotated(qkv, *tables)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cosine, sine = ctx.saved_tensors
        return _rotated(grad, cosine, -sine), None, None


def _rotated(qkv: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """qkv with its first two parts rotated by angles of these cosines and sines [T, D / 2]."""
    compute = computation_dtype(qkv.dtype)
    cosine = cosine.repeat(1, 2)[:, None, None, :].to(compute)
    sine = sine[:, None, None, :].to(compute)
    out = torch.empty(qkv.shape, dtype=compute, device=qkv.device)
    source = qkv[:, :2].to(compute)
    first, second = source.chunk(2, dim=-1)
    out_first, out_second = torch.mul(source, cosine, out=out[:, :2]).chunk(2, dim=-1)
    out_first.addcmul_(second, sine, value=-1)
    out_second.addcmul_(first, sine)
    out[:, 2] = qkv[:, 2]
    return out.to(qkv.dtype)


def rotation_tables(
    cu_seqlens: Tensor, tokens: int, head_size: int, base: float
) -> tuple[Tensor, Tensor]:
    """(cosine, sine), float32 [tokens, head_size / 2] each: the rotation of every token."""
    tables = _position_tables(next_power_of_2(tokens), head_size, base, cu_seqlens.device)
    positions = token_positions(cu_seqlens, tokens)
    cosine, sine = tables[positions].unbind(1)
    return cosine, sine


@lru_cache(maxsize=16)
def _position_tables(length: int, head_size: int, base: float, device: torch.device) -> Tensor:
    """float32 [length, 2, head_size / 2]: the cosines and sines of every position's angles."""
    positions = torch.arange(length, dtype=torch.float32, device=device)
    angles = torch.outer(positions, rotation_frequencies(head_size, base, device))
    return torch.stack((angles.cos(), angles.sin()), dim=1)


@lru_cache(maxsize=64)
def rotation_frequencies(head_size: int, base: float, device: torch.device) -> Tensor:
    """float32 [head_size / 2]: the angle by which each pair turns from one token to the next.

    In float32 all through, as transformers has them: at 8,192 tokens their last bits show.
    """
    exponents = torch.arange(0, head_size, 2, dtype=torch.float32) / head_size
    return (1.0 / (base**exponents)).to(device)


@triton.jit
def _rotate_kernel(  # type: ignore[no-untyped-def]
    qkv_pointer,
    cu_seqlens_pointer,
    frequencies_pointer,
    tokens,
    boundaries,
    heads,
    half,
    direction,
    token_stride,
    part_stride,
    head_stride,
    SEARCH_STEPS: tl.constexpr,
    TOKENS: tl.constexpr,
    HALF: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    token_inside = token < tokens
    # the last boundary that is at most the token: where its document starts
    low = tl.zeros([TOKENS], dtype=tl.int32)
    high = tl.zeros([TOKENS], dtype=tl.int32) + boundaries
    for _ in range(SEARCH_STEPS):
        middle = (low + high) // 2
        before = tl.load(cu_seqlens_pointer + middle, mask=token_inside, other=0) <= token
        low = tl.where(before, middle, low)
        high = tl.where(before, high, middle)
    start = tl.load(cu_seqlens_pointer + low, mask=token_inside, other=0)
    pair = tl.arange(0, HALF)
    inside = token_inside[:, None] & (pair < half)[None, :]
    frequency = tl.load(frequencies_pointer + pair, mask=pair < half, other=0.0)
    angle = (token - start).to(tl.float32)[:, None] * frequency[None, :]
    cosine = tl.cos(angle)
    sine = tl.sin(angle) * direction
    of_tokens = qkv_pointer + token[:, None] * token_stride + pair[None, :]
    for index in range(2 * heads):  # the heads of the queries, then those of the keys
        part, head = tl.cast(index // heads, tl.int64), tl.cast(index % heads, tl.int64)
        at = of_tokens + part * part_stride + head * head_stride
        first = tl.load(at, mask=inside, other=0.0)
        second = tl.load(at + half, mask=inside, other=0.0)
        a, b = first.to(tl.float32), second.to(tl.float32)
        tl.store(at, (a * cosine - b * sine).to(first.dtype), mask=inside)
        tl.store(at + half, (b * cosine + a * sine).to(first.dtype), mask=inside)


def _rotate(qkv: Tensor, cu_seqlens: Tensor, base: float, direction: float) -> Tensor:
    """qkv rotated where it lies; a copy if neighbours in a head are apart or elements shared."""
    if qkv.stride(3) != 1 or 0 in qkv.stride():
        qkv = qkv.contiguous()
    tokens, _, heads, size = qkv.shape
    if qkv.numel():
        _rotate_kernel[(blocks(tokens, TOKENS),)](
            qkv,
            cu_seqlens,
            rotation_frequencies(size, base, qkv.device),
            tokens,
            cu_seqlens.shape[0],
            heads,
            size // 2,
            direction,
            *qkv.stride()[:3],
            SEARCH_STEPS=cu_seqlens.shape[0].bit_length(),
            TOKENS=TOKENS,
            HALF=next_power_of_2(size // 2),
            num_warps=4,
        )
    return qkv


class _Rotary(torch.autograd.Function):
    """Autograd is not told that the memory is the argument's own: it would copy the gradient of the
    view that the argument is. Nobody else holds either."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cu_seqlens: Tensor, base: float) -> Tensor:
        ctx.save_for_backward(cu_seqlens)
        ctx.base = base
        return _rotate(qkv, cu_seqlens, base, 1.0).detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (cu_seqlens,) = ctx.saved_tensors
        return _rotate(grad, cu_seqlens, ctx.base, -1.0), None, None
