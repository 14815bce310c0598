"""Masked tokens of each document of a row, of ratios drawn from a range."""

from __future__ import annotations

import numpy as np

from mmbert.recipe import MaskRatioRange

# Unit of the ratios: fine enough for rows of 2 ** 31 tokens, whose sums stay within 64 bits.
_ONE = 1 << 30


def divide_among_documents(
    ratio: MaskRatioRange, sizes: np.ndarray, count: int, words: np.random.Philox
) -> np.ndarray:
    """Divide `count` masked tokens among documents of `sizes` eligible tokens, int64 [documents].

    Ratios are drawn uniformly from the range, then moved by one common shift within the range so
    that they add up to `count`; whole tokens go to the largest remainders. All in integers, which
    are the same on every machine.
    """
    low, high = round(ratio.low * _ONE), round(ratio.high * _ONE)
    draws = (words.random_raw(len(sizes)) >> np.uint64(32)).astype(np.int64)
    drawn = low + (draws * (high - low + 1) >> 32)
    shift, most = low - high, high - low
    while shift < most:
        middle = (shift + most + 1) // 2
        if int((np.clip(drawn + middle, low, high) * sizes).sum()) <= count * _ONE:
            shift = middle
        else:
            most = middle - 1
    exact = np.clip(drawn + shift, low, high) * sizes
    counts = exact // _ONE
    missing = count - int(counts.sum())
    counts[np.argsort(-(exact % _ONE), kind="stable")[:missing]] += 1
    return counts
