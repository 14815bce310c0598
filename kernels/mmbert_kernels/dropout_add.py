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

from functools import lru_cache

import torch
from torch import Tensor

from mmbert_kernels.checks import computation_dtype, require

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_MIX = 0x2C1B3C6D
_LEVELS = 1 << 16


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
    return dropout_add_reference(x, residual, p, seed, first_token=first_token)


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
    key = split_mix(seed & (2**64 - 1))
    counters = torch.arange(tokens, device=device, dtype=torch.int64) + _signed(
        (key + first_token) & (2**64 - 1)
    )
    token_keys = _split_mix_tensor(counters)
    additive = token_keys.to(torch.int32)
    odd = (token_keys >> 32).to(torch.int32) | 1
    words = torch.addcmul(additive[:, None], channel_words(width // 2, device), odd[:, None])
    words ^= (words >> 15) & 0x1FFFF  # a logical shift
    words *= _MIX
    return words.view(torch.int16) >= threshold


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
