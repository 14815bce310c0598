"""Dropout with masks that are independent of the process grid.

    out[t, c] = x[t, c] * keep(seed, first_token + t, c) / (1 - p)

`keep` is a counter-based generator: a pure function of the seed, the token's index in the training
run and the channel. The mask is therefore the same on any process grid and in recomputation, and is
never stored. Two channels share one 32-bit word:

    a, m    two 32-bit keys of the token, m odd: halves of splitmix64(splitmix64(seed) + token)
    w       = mix(g(channel // 2) * m + a),  g(i) = the low half of splitmix64(i)
    mix(z)  = (z xor z >> 15) * 0x2C1B3C6D, modulo 2^32
    keep    = low (even channel) or high (odd channel) half of w, as a signed number, >= threshold

Each word is uniform because `a` is uniform. The words of a token are pairwise independent because
their products with a random odd `m` are. p is rounded to a multiple of 2^-16, and the scale
1 / (1 - p) uses the rounded p. splitmix64: Steele, Lea and Flood 2014.

Fused into the residual addition of layer_norm.py, forward and backward.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from mmbert_kernels.support.checks import computation_dtype, require
from mmbert_kernels.support.triton_import import tl, triton

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_MIX = 0x2C1B3C6D
_LEVELS = 1 << 16


@dataclass(frozen=True)
class Dropout:
    """Dropout of a [T, d] tensor, d even."""

    p: float
    """Probability in [0, 1)."""
    seed: int
    """Any integer; must differ between layers."""
    first_token: int = 0
    """Index of row 0 in the training run (not within this process' shard)."""

    def __post_init__(self) -> None:
        require(0 <= self.p < 1, f"dropout: p must be in [0, 1); got {self.p}")

    @property
    def threshold(self) -> int:
        """Signed 16-bit number below which elements are dropped."""
        return self._dropped_levels - _LEVELS // 2

    @property
    def scale(self) -> float:
        """Scale of kept elements, 1 / (1 - p) with the rounded p."""
        return _LEVELS / (_LEVELS - self._dropped_levels)

    @property
    def first_counter(self) -> int:
        """Argument of splitmix64 for row 0, as a signed 64-bit number."""
        bits = 2**64 - 1
        return _signed((split_mix(self.seed & bits) + self.first_token) & bits)

    @property
    def _dropped_levels(self) -> int:
        return min(round(self.p * _LEVELS), _LEVELS - 1)


def add_dropped(x: Tensor, residual: Tensor, dropout: Dropout) -> Tensor:
    """Return residual [T, d] + dropout(x [T, d]) in the residual's dtype, in plain PyTorch."""
    keep = keep_mask(dropout, x.shape[0], x.shape[1], x.device)
    compute = computation_dtype(x.dtype)
    kept = torch.where(keep, x, torch.zeros((), dtype=x.dtype, device=x.device)).to(compute)
    return torch.add(residual.to(compute), kept, alpha=dropout.scale).to(residual.dtype)


def keep_mask(dropout: Dropout, tokens: int, width: int, device: torch.device) -> Tensor:
    """Return the mask of kept elements, bool [tokens, width]."""
    counters = torch.arange(tokens, device=device, dtype=torch.int64)
    token_keys = _split_mix_tensor(counters + dropout.first_counter)
    additive = token_keys.to(torch.int32)
    odd = (token_keys >> 32).to(torch.int32) | 1
    words = torch.addcmul(additive[:, None], channel_words(width // 2, device), odd[:, None])
    words ^= (words >> 15) & 0x1FFFF  # a logical shift
    words *= _MIX
    return words.view(torch.int16) >= dropout.threshold


@lru_cache(maxsize=32)
def channel_words(count: int, device: torch.device) -> Tensor:
    """Return g(0), g(1), … as int32 [count]."""
    words = _split_mix_tensor(torch.arange(count, dtype=torch.int64)).to(torch.int32)
    return words.to(device, non_blocking=True)


def split_mix(value: int) -> int:
    """Return the splitmix64 hash of `value`, 64 bits."""
    bits = 2**64 - 1
    value = (value + _GOLDEN) & bits
    value = ((value ^ (value >> 30)) * _FIRST) & bits
    value = ((value ^ (value >> 27)) * _SECOND) & bits
    return value ^ (value >> 31)


def _split_mix_tensor(value: Tensor) -> Tensor:
    """Apply `split_mix` to every element of an int64 tensor."""
    value = value + _signed(_GOLDEN)
    value = (value ^ _logical_shift(value, 30)) * _signed(_FIRST)
    value = (value ^ _logical_shift(value, 27)) * _signed(_SECOND)
    return value ^ _logical_shift(value, 31)


def _logical_shift(value: Tensor, bits: int) -> Tensor:
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """Reinterpret an unsigned 64-bit number as signed."""
    return value - (1 << 64) if value >= 1 << 63 else value


@triton.jit
def _split_mix_kernel(value):  # type: ignore[no-untyped-def]
    """Apply `split_mix` to uint64 values."""
    value += 0x9E3779B97F4A7C15
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB
    return value ^ (value >> 31)


@triton.jit
def keep_tile(  # type: ignore[no-untyped-def]
    row, column, words_pointer, width, threshold, first_counter
):
    """Return the mask of kept elements of a tile, bool [rows, columns]; `row` is int64."""
    key = _split_mix_kernel((row + first_counter).to(tl.uint64))
    additive = key.to(tl.uint32)
    odd = (key >> 32).to(tl.uint32) | 1
    channel = tl.load(words_pointer + column // 2, mask=column < width, other=0).to(tl.uint32)
    word = channel[None, :] * odd[:, None] + additive[:, None]
    word = (word ^ (word >> 15)) * 0x2C1B3C6D
    half = (word >> ((column % 2) * 16).to(tl.uint32)[None, :]).to(tl.int16)
    return half.to(tl.int32) >= threshold
