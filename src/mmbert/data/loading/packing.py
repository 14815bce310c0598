"""Which waiting segments fill the next row: the oldest first, the last gap closed exactly.

Segments are taken in order until the row is nearly full: what the last dozen of those that would
fit occupy is left as a gap, which is closed by an exact subset sum over the lengths of the next
waiting ones. The oldest segment is always taken, so a segment with j older ones before it waits
for j rows at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmbert.data.sampling.mixture_weights import ComponentSize, PhaseMixture
from mmbert.data.sampling.phase_sampler import PhaseSampler, mean_segment
from mmbert.recipe import Recipe

# Waiting segments among which a row's last gap is closed; the second only when the first fails.
CLOSING_WINDOWS = (64, 256)
# Segments that would still fit in order but are left to the closing, so that sums abound.
CLOSING_RESERVE = 12
# Slots of a batch come in multiples of this: fewer would mean more shapes, and kernels compiled
# for them.
SLOT_STEP = 32


@dataclass(frozen=True)
class RowShape:
    """Sizes that stay the same for all rows of a phase, in tokens and segments."""

    row_tokens: int
    max_segments: int

    @classmethod
    def of(cls, row_tokens: int, mean_segment: float) -> RowShape:
        """The shape of rows of `row_tokens` tokens, for segments of `mean_segment` in the mean."""
        return cls(row_tokens, max_segments_per_row(row_tokens, mean_segment))

    @property
    def max_prefix_segments(self) -> int:
        """Segments taken in order at most, so that the closing never exceeds `max_segments`."""
        # one more is kept free for the padding at the row's end
        return max(1, self.max_segments - 1 - CLOSING_WINDOWS[0])


def row_shape(sampler: PhaseSampler) -> RowShape:
    """The shape of the rows of a phase."""
    return RowShape.of(sampler.row_tokens, sampler.mean_segment)


def row_shapes(
    sizes: tuple[ComponentSize, ...], recipe: Recipe, mixtures: Sequence[PhaseMixture]
) -> tuple[RowShape, ...]:
    """The shapes of every phase's rows, from `component_sizes` and `phase_mixtures`."""
    means = (mean_segment(sizes, mixture, index) for index, mixture in enumerate(mixtures))
    return tuple(RowShape.of(recipe.batch.row_tokens, mean) for mean in means)


def max_segments_per_row(row_tokens: int, mean_segment: float) -> int:
    """A fixed number of segment slots: four times what the mean asks for, in steps of 64.

    Bounded by row_tokens / 3 (a segment has at least begin, end and a token), plus the padding.
    """
    expected = row_tokens / max(3.0, mean_segment)
    generous = 64 * (int(4 * expected) // 64 + 1) + CLOSING_WINDOWS[0]
    return max(2, min(generous, row_tokens // 3 + 1))


def slots_for(segments: int, max_segments: int) -> int:
    """Slots that a batch of `segments` segments (padding's own included) has, at most all.

    On a GPU every slot costs attention programs, and memory in the backward pass, filled or not.
    """
    return min(-(-segments // SLOT_STEP) * SLOT_STEP, max_segments)


def prefix_length(ends: np.ndarray, shape: RowShape) -> int:
    """How many of the oldest segments are taken in order; `ends` are running sums of sizes."""
    fitting = int(np.searchsorted(ends, shape.row_tokens, side="right"))
    return max(1, min(fitting - CLOSING_RESERVE, shape.max_prefix_segments))


def choose_segments(sizes: np.ndarray, shape: RowShape) -> np.ndarray:
    """Ascending indices of the waiting segments (`sizes` int64, oldest first) that form a row.

    Their sizes add up to at most `row_tokens`; exactly, wherever the waiting lengths allow.
    """
    ends = np.cumsum(sizes)
    if len(ends) <= shape.max_prefix_segments and (not len(ends) or ends[-1] <= shape.row_tokens):
        return np.arange(len(sizes))
    prefix = prefix_length(ends, shape)
    gap = shape.row_tokens - int(ends[prefix - 1])
    chosen: list[int] = []
    for window in CLOSING_WINDOWS:
        limit = min(window, shape.max_segments - 1 - prefix)
        candidates = sizes[prefix : prefix + limit].tolist()
        chosen = _closest_subset(candidates, gap)
        missed = gap - sum(candidates[i] for i in chosen)
        if missed == 0 or prefix + window >= len(sizes):
            break
    return np.concatenate((np.arange(prefix), np.array(chosen, dtype=np.int64) + prefix))


def _closest_subset(sizes: list[int], target: int) -> list[int]:
    """Ascending indices of a subset whose sum is the largest one not above `target`.

    Bit s of an integer says that sum s can be reached; older sizes are preferred.
    """
    mask = (1 << (target + 1)) - 1
    reachable = [1]
    for size in sizes:
        reachable.append((reachable[-1] | (reachable[-1] << size)) & mask)
        if reachable[-1] >> target:
            break
    remaining = reachable[-1].bit_length() - 1
    chosen = []
    for index in range(len(reachable) - 2, -1, -1):
        if not reachable[index] >> remaining & 1:
            chosen.append(index)
            remaining -= sizes[index]
    return chosen[::-1]
