"""Keyed permutations without arrays: a vectorized Feistel network with cycle walking.

`permute(index, size, key)` is a bijection of 0 to size - 1 for each key. Each index is computed
independently, so that the order of an epoch takes no memory. Uses only 64-bit integer arithmetic,
which is the same on every machine.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xxhash

_ROUNDS = 8  # even, so that left and right end up in their original places
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_ONE = np.uint64(1)
_SHIFT = np.uint64(29)
_HALF = np.uint64(32)


def splitmix64(value: npt.ArrayLike) -> np.ndarray:
    """Apply the SplitMix64 finalizer, a bijection of uint64 that scatters nearby values."""
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
    """Hash the text of `parts` to a 64-bit key."""
    return xxhash.xxh3_64_intdigest("/".join(str(part) for part in parts).encode())


def unit_of(*parts: object) -> float:
    """Hash the text of `parts` to a number in [0, 1)."""
    return (key_of(*parts) >> 11) * 2.0**-53


def permute(index: npt.ArrayLike, size: npt.ArrayLike, key: npt.ArrayLike) -> np.ndarray:
    """Return the image (int64) of `index` under the permutation of 0 to `size` - 1 given by `key`.

    The arguments (integers; keys are uint64) broadcast to one flat array. Raises ValueError if an
    index is not below its size.
    """
    index, size, key = np.broadcast_arrays(
        np.asarray(index, dtype=np.int64),
        np.asarray(size, dtype=np.int64),
        np.asarray(key, dtype=np.uint64),
    )
    if index.size and (int(index.min()) < 0 or bool((index >= size).any())):
        raise ValueError("an index is not below the size of its permutation")
    # Values are pairs (left, right) with left < height and right < width: a domain hardly larger
    # than the size, so that cycle walking is rare.
    height = np.maximum(1, np.ceil(np.sqrt(size.astype(np.float64)))).astype(np.uint64)
    ends = size.astype(np.uint64)
    width = (ends + height - _ONE) // height
    value = index.astype(np.uint64)
    pending = np.arange(value.size)
    walking, keys = value.copy(), key
    while pending.size:
        walking = _feistel(walking, height, width, keys)
        done = walking < ends
        if done.all():
            value[pending] = walking
            break
        value[pending[done]] = walking[done]
        again = ~done
        pending, walking = pending[again], walking[again]
        height, width, ends, keys = height[again], width[again], ends[again], keys[again]
    return value.astype(np.int64)


def _feistel(
    value: np.ndarray, height: np.ndarray, width: np.ndarray, key: np.ndarray
) -> np.ndarray:
    """Run the network once over the cells of a `height` by `width` table."""
    left = value // width
    right = value - left * width
    with np.errstate(over="ignore"):
        for number in range(_ROUNDS):
            # SplitMix64 multiplications; the upper half is the well-mixed one
            hashed = right ^ key
            hashed += np.uint64(number + 1) * _GOLDEN
            hashed *= _FIRST
            hashed ^= hashed >> _SHIFT
            hashed *= _SECOND
            hashed >>= _HALF
            hashed *= height  # scaled to 0 … height - 1
            hashed >>= _HALF
            left += hashed
            left -= height * (left >= height)
            left, right, height, width = right, left, width, height
    return left * width + right
