"""Dropout with masks that any grid agrees on.

    out[t, c] = x[t, c] * keep(seed, first_token + t, c) / (1 - p)

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

It is part of layer_norm.py's addition of a branch to the residual, forward and backward.
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
    """Which elements of a [T, d], d even, are dropped."""

    p: float
    """Probability in [0, 1)."""
    seed: int
    """Any integer; another for every layer."""
    first_token: int = 0
    """Index of row 0 in the whole training (not in this process' part of it)."""

    def __post_init__(self) -> None:
        require(0 <= self.p < 1, f"dropout: p must be in [0, 1); got {self.p}")

    @property
    def threshold(self) -> int:
        """The signed 16-bit number below which elements are dropped."""
        return self._dropped_levels - _LEVELS // 2

    @property
    def scale(self) -> float:
        """1 / (1 - the rounded p)."""
        return _LEVELS / (_LEVELS - self._dropped_levels)

    @property
    def first_counter(self) -> int:
        """What splitmix64 is taken of for row 0, as a signed 64-bit number."""
        bits = 2**64 - 1
        return _signed((split_mix(self.seed & bits) + self.first_token) & bits)

    @property
    def _dropped_levels(self) -> int:
        return min(round(self.p * _LEVELS), _LEVELS - 1)


def add_dropped(x: Tensor, residual: Tensor, dropout: Dropout) -> Tensor:
    """residual [T, d] + dropout of x [T, d], of the residual's dtype, in plain PyTorch."""
    keep = keep_mask(dropout, x.shape[0], x.shape[1], x.device)
    compute = computation_dtype(x.dtype)
    kept = torch.where(keep, x, torch.zeros((), dtype=x.dtype, device=x.device)).to(compute)
    return torch.add(residual.to(compute), kept, alpha=dropout.scale).to(residual.dtype)


def keep_mask(dropout: Dropout, tokens: int, width: int, device: torch.device) -> Tensor:
    """bool [tokens, width]: which elements are kept."""
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
    """int32 [count]: g(0), g(1), …"""
    words = _split_mix_tensor(torch.arange(count, dtype=torch.int64)).to(torch.int32)
    return words.to(device, non_blocking=True)


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


@triton.jit
def keep_tile(  # type: ignore[no-untyped-def]
    row, column, words_pointer, width, threshold, first_counter
):
    """bool [rows, columns]: which elements of these rows (int64) and columns are kept."""
    key = _split_mix_kernel((row + first_counter).to(tl.uint64))
    additive = key.to(tl.uint32)
    odd = (key >> 32).to(tl.uint32) | 1
    channel = tl.load(words_pointer + column // 2, mask=column < width, other=0).to(tl.uint32)
    word = channel[None, :] * odd[:, None] + additive[:, None]
    word = (word ^ (word >> 15)) * 0x2C1B3C6D
    half = (word >> ((column % 2) * 16).to(tl.uint32)[None, :]).to(tl.int16)
    return half.to(tl.int32) >= threshold
