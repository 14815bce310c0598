"""Keyed permutations without arrays: a Feistel network with cycle walking, vectorised.

`permute(index, size, key)` is, for each key, a bijection of 0 … size - 1; evaluating it anywhere
costs the same, so that an epoch's order needs no memory. 64-bit integer arithmetic only: the same
on every machine.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xxhash

_ROUNDS = 6  # even, so that the halves end with the widths they began with
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_ONE = np.uint64(1)


def mix(value: npt.ArrayLike) -> np.ndarray:
    """SplitMix64's finaliser: a bijection of uint64 that scatters nearby values."""
    x = np.array(value, dtype=np.uint64)
    with np.errstate(over="ignore"):
        x += _GOLDEN
        x ^= x >> np.uint64(30)
        x *= _FIRST
        x ^= x >> np.uint64(27)
        x *= _SECOND
        x ^= x >> np.uint64(31)
    return x


def key_of(*parts: object) -> int:
    """A 64-bit key from the text of `parts`."""
    return xxhash.xxh3_64_intdigest("/".join(str(part) for part in parts).encode())


def unit_of(*parts: object) -> float:
    """A number in [0, 1) from the text of `parts`."""
    return (key_of(*parts) >> 11) * 2.0**-53


def permute(index: npt.ArrayLike, size: npt.ArrayLike, key: npt.ArrayLike) -> np.ndarray:
    """int64: the image of `index` under the permutation of 0 … `size` - 1 that `key` picks.

    The three (integers, keys uint64) broadcast to one flat array. Raises ValueError when an index
    is not below its size.
    """
    index, size, key = np.broadcast_arrays(
        np.asarray(index, dtype=np.int64),
        np.asarray(size, dtype=np.int64),
        np.asarray(key, dtype=np.uint64),
    )
    if index.size and (int(index.min()) < 0 or bool((index >= size).any())):
        raise ValueError("an index lies outside its permutation")
    # bits per half: the smallest power of two that holds the size, at least 2 bits
    bits = np.maximum(2, np.frexp((size - 1).astype(np.float64))[1]).astype(np.uint64)
    low_bits = bits >> _ONE
    value = index.astype(np.uint64)
    limit = size.astype(np.uint64)
    pending = np.arange(value.size)
    walking, ends, keys = value.copy(), limit, key
    widths = (bits - low_bits, low_bits)
    while pending.size:
        walking = _feistel(walking, widths, keys)
        done = walking < ends
        value[pending[done]] = walking[done]
        again = ~done
        pending, walking = pending[again], walking[again]
        ends, keys = ends[again], keys[again]
        widths = (widths[0][again], widths[1][again])
    return value.astype(np.int64)


def _feistel(
    value: np.ndarray, widths: tuple[np.ndarray, np.ndarray], key: np.ndarray
) -> np.ndarray:
    """One pass of the network over values of widths[0] + widths[1] bits."""
    left_width, right_width = widths
    left = value >> right_width
    right = value & ((_ONE << right_width) - _ONE)
    with np.errstate(over="ignore"):
        round_key = key
        for _ in range(_ROUNDS):
            round_key = round_key + _GOLDEN
            # SplitMix64's multiplications; the upper half is the well mixed one
            hashed = (right ^ round_key) * _FIRST
            hashed ^= hashed >> np.uint64(32)
            hashed *= _SECOND
            hashed >>= np.uint64(32)
            mask = (_ONE << left_width) - _ONE
            left, right = right, left ^ (hashed & mask)
            left_width, right_width = right_width, left_width
    return (left << right_width) | right
