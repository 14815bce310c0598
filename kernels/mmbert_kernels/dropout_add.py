"""Dropout of a branch and its addition to the residual, with masks that any grid agrees on.

    out[t, c] = residual[t, c] + x[t, c] * keep(seed, first_token + t, c) / (1 - p)

`keep` is a counter-based generator: a function of the seed, the token's index in the whole
training and the channel alone, so that the mask depends neither on the process grid nor on
recomputation, and no mask has to be stored. Two channels share one 32-bit word:

    a, m    two 32-bit keys of the token, m odd: halves of splitmix64(splitmix64(seed) + token)
    w       = mix(g(channel // 2) * m + a),  g(i) = the low half of splitmix64(i)
    mix(z)  = (z xor z >> 15) * 0x2C1B3C6D, modulo 2^32
    keep    = the word's low (even channel) or high (odd channel) 16 bits, read as a signed
              number, are at least the threshold

Each word is uniform because `a` is; two words of a token are independent in pairs because the
product with a random odd `m` is. p is rounded to a multiple of 2^-16, and the scale
1 / (1 - p) uses the rounded p. splitmix64: Steele, Lea and Flood 2014.
"""

# ruff: noqa: N803  (Triton's compile-time arguments are written in capitals)

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from mmbert_kernels.checks import computation_dtype, require, require_triton_dtype
from mmbert_kernels.implementation import implementation
from mmbert_kernels.triton_support import blocks, contiguous_rows, tl, triton

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_MIX = 0x2C1B3C6D
_LEVELS = 1 << 16
# A program's tile.
ROWS, COLUMNS = 16, 128


def dropout_add(
    x: Tensor, residual: Tensor, p: float, seed: int, *, first_token: int = 0
) -> Tensor:
    """Drop each element of `x` with probability p, scale what is left, and add the residual.

    Args:
        x: [T, d], d even.
        residual: [T, d].
        p: probability in [0, 1).
        seed: any integer; take another for every layer.
        first_token: index of row 0 in the whole training (not in this process' part of it).

    Returns:
        [T, d], of the residual's dtype.

    Raises:
        ValueError: shapes do not fit, or p lies outside [0, 1).
    """
    require(
        x.ndim == 2 and x.shape == residual.shape and x.shape[1] % 2 == 0,
        "dropout_add: x and residual must both be [T, d] with an even d; got "
        f"{list(x.shape)} and {list(residual.shape)}",
    )
    require(0 <= p < 1, f"dropout_add: p must be in [0, 1); got {p}")
    if implementation("dropout_add", x.device.type) == "reference":
        return dropout_add_reference(x, residual, p, seed, first_token=first_token)
    require_triton_dtype("dropout_add", x, residual)
    out: Tensor = _DropoutAdd.apply(x, residual, p, seed, first_token)
    return out


def dropout_add_reference(
    x: Tensor, residual: Tensor, p: float, seed: int, *, first_token: int = 0
) -> Tensor:
    """`dropout_add` in plain PyTorch."""
    threshold, scale = threshold_and_scale(p)
    keep = keep_mask(threshold, seed, first_token, x.shape[0], x.shape[1], x.device)
    compute = computation_dtype(x.dtype)
    kept = torch.where(keep, x, torch.zeros((), dtype=x.dtype, device=x.device)).to(compute)
    return torch.add(residual.to(compute), kept, alpha=scale).to(residual.dtype)


def threshold_and_scale(p: float) -> tuple[int, float]:
    """The signed 16-bit threshold below which elements are dropped, and 1 / (1 - rounded p)."""
    dropped = min(round(p * _LEVELS), _LEVELS - 1)
    return dropped - _LEVELS // 2, _LEVELS / (_LEVELS - dropped)


def keep_mask(
    threshold: int, seed: int, first_token: int, tokens: int, width: int, device: torch.device
) -> Tensor:
    """bool [tokens, width]: which elements are kept."""
    counters = torch.arange(tokens, device=device, dtype=torch.int64)
    token_keys = _split_mix_tensor(counters + first_counter(seed, first_token))
    additive = token_keys.to(torch.int32)
    odd = (token_keys >> 32).to(torch.int32) | 1
    words = torch.addcmul(additive[:, None], channel_words(width // 2, device), odd[:, None])
    words ^= (words >> 15) & 0x1FFFF  # a logical shift
    words *= _MIX
    return words.view(torch.int16) >= threshold


def first_counter(seed: int, first_token: int) -> int:
    """What splitmix64 is taken of for the first token, as a signed 64-bit number."""
    bits = 2**64 - 1
    return _signed((split_mix(seed & bits) + first_token) & bits)


@lru_cache(maxsize=32)
def channel_words(count: int, device: torch.device) -> Tensor:
    """int32 [count]: g(0), g(1), …"""
    return _split_mix_tensor(torch.arange(count, dtype=torch.int64)).to(torch.int32).to(device)


def split_mix(value: int) -> int:
    """One output of splitmix64: a 64-bit mix of `value`."""
    bits = 2**64 - 1
    value = (value + _GOLDEN) & bits
    value = ((value ^ (value >> 30)) * _FIRST) & bits
    value = ((value ^ (value >> 27)) * _SECOND) & bits
    return value ^ (value >> 31)


def _split_mix_tensor(value: Tensor) -> Tensor:
    """`split_mix` of every element of an int64 tensor."""
    value = value + _signed(_GOLDEN)
    value = (value ^ _logical_shift(value, 30)) * _signed(_FIRST)
    value = (value ^ _logical_shift(value, 27)) * _signed(_SECOND)
    return value ^ _logical_shift(value, 31)


def _logical_shift(value: Tensor, bits: int) -> Tensor:
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """A 64-bit pattern as the signed number with the same bits."""
    return value - (1 << 64) if value >= 1 << 63 else value


@triton.jit
def _split_mix_kernel(value):  # type: ignore[no-untyped-def]
    """`split_mix` of uint64 values."""
    value += 0x9E3779B97F4A7C15
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB
    return value ^ (value >> 31)


@triton.jit(do_not_specialize=["first_counter"])
def _dropout_kernel(  # type: ignore[no-untyped-def]
    x_pointer,
    residual_pointer,
    words_pointer,
    out_pointer,
    rows,
    width,
    x_stride,
    residual_stride,
    threshold,
    scale,
    first_counter,
    HAS_RESIDUAL: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row < rows)[:, None] & (column < width)[None, :]
    key = _split_mix_kernel((row + first_counter).to(tl.uint64))
    additive = key.to(tl.uint32)
    odd = (key >> 32).to(tl.uint32) | 1
    channel = tl.load(words_pointer + column // 2, mask=column < width, other=0).to(tl.uint32)
    word = channel[None, :] * odd[:, None] + additive[:, None]
    word = (word ^ (word >> 15)) * 0x2C1B3C6D
    half = (word >> ((column % 2) * 16).to(tl.uint32)[None, :]).to(tl.int16)
    x_at = x_pointer + row[:, None] * x_stride + column[None, :]
    x = tl.load(x_at, mask=inside, other=0.0).to(tl.float32)
    out = tl.where(half.to(tl.int32) >= threshold, x * scale, 0.0)
    if HAS_RESIDUAL:
        residual_at = residual_pointer + row[:, None] * residual_stride + column[None, :]
        out += tl.load(residual_at, mask=inside, other=0.0).to(tl.float32)
    out_at = out_pointer + row[:, None] * width + column[None, :]
    tl.store(out_at, out.to(out_pointer.dtype.element_ty), mask=inside)


def _dropout(
    x: Tensor, residual: Tensor | None, p: float, seed: int, first_token: int, dtype: torch.dtype
) -> Tensor:
    """Dropout of x, plus the residual if there is one."""
    x = contiguous_rows(x)
    residual = None if residual is None else contiguous_rows(residual)
    rows, width = x.shape
    out = torch.empty(rows, width, dtype=dtype, device=x.device)
    threshold, scale = threshold_and_scale(p)
    if out.numel():
        _dropout_kernel[(blocks(rows, ROWS), blocks(width, COLUMNS))](
            x,
            residual,
            channel_words(width // 2, x.device),
            out,
            rows,
            width,
            x.stride(0),
            residual.stride(0) if residual is not None else 0,
            threshold,
            scale,
            first_counter(seed, first_token),
            HAS_RESIDUAL=residual is not None,
            ROWS=ROWS,
            COLUMNS=COLUMNS,
            num_warps=4,
        )
    return out


class _DropoutAdd(torch.autograd.Function):
    """The mask is made again on the way back; nothing is kept for it."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor, p: float, seed: int, first_token: int
    ) -> Tensor:
        ctx.settings = p, seed, first_token, x.dtype
        return _dropout(x, residual, p, seed, first_token, residual.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        return _dropout(grad, None, *ctx.settings), grad, None, None, None
