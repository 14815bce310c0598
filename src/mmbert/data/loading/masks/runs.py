"""Masks of several tokens: choice of whole runs of tokens, and spans of geometric lengths."""

from __future__ import annotations

import itertools
import math
import operator

import numpy as np

from mmbert.recipe import SpanSettings


def choose_runs(
    eligible: np.ndarray,
    starts: np.ndarray,
    keys: np.ndarray,
    sizes: np.ndarray,
    counts: np.ndarray,
) -> np.ndarray:
    """Choose `counts[i]` tokens of the i-th document in whole runs; only the last may be cut.

    Args:
        eligible: positions that may be masked, ascending int64 [n].
        starts: where a run begins, bool [n].
        keys: uint32 [n]; runs are taken in the order of the keys of their first tokens.
        sizes: eligible tokens of each document, int64 [documents].
        counts: int64 [documents], at most `sizes`.

    Returns:
        The positions, ascending int64.
    """
    first = np.flatnonzero(starts)
    lengths = np.diff(np.append(first, len(eligible)))
    document = np.repeat(np.arange(len(sizes)), sizes)[first]
    by_document = document.astype(np.uint64) << np.uint64(32)
    order = np.argsort(by_document | keys[first], kind="stable")
    first, lengths = first[order], lengths[order]
    # Tokens of the document's runs before each, in the order in which they are taken.
    before = np.cumsum(lengths) - lengths - (np.cumsum(sizes) - sizes)[document]
    taken = np.clip(counts[document] - before, 0, lengths)
    within = np.arange(int(taken.sum())) - np.repeat(np.cumsum(taken) - taken, taken)
    return np.sort(eligible[np.repeat(first, taken) + within])


def span_starts(starts: np.ndarray, limits: np.ndarray, words: np.random.Philox) -> np.ndarray:
    """Cut stretches of tokens (beginning at `starts`, bool [n]) into spans of drawn lengths.

    Returns:
        Where spans begin, bool [n]. The last span of a stretch ends with it.
    """
    count = len(starts)
    draws = words.random_raw((count + 1) // 2).view(np.uint32)[:count]
    lengths = 1 + np.searchsorted(limits, draws, side="right")
    begin = np.flatnonzero(starts)
    stretch = np.cumsum(starts) - 1
    # Where the span drawn at a token of the stretch begins, if the stretch is long enough.
    before = np.cumsum(lengths) - lengths
    place = begin[stretch] + before - before[begin][stretch]
    found = np.zeros(count, dtype=bool)
    found[place[place < np.append(begin[1:], count)[stretch]]] = True
    return found


def span_limits(settings: SpanSettings) -> np.ndarray:
    """Return the 32-bit draws from which on a span is longer than 1, 2, …; uint32 [limit - 1].

    Only operations of floats that are rounded alike on every machine are used.
    """
    low, high = 0.0, 1.0
    for _ in range(64):
        ratio = (low + high) / 2
        weights = list(itertools.accumulate([1.0] + [ratio] * (settings.limit - 1), operator.mul))
        total = math.fsum(weights)
        mean = math.fsum(length * weight for length, weight in enumerate(weights, 1)) / total
        low, high = (ratio, high) if mean < settings.mean else (low, ratio)
    sums = list(itertools.accumulate(weights))[:-1]
    return np.array([min(int(part / total * 2**32), 2**32 - 1) for part in sums], dtype=np.uint32)
