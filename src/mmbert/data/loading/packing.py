"""Packing of buffered segments into rows: oldest first, then a subset sum to fill the gap.

Segments are taken in order until the row is nearly full; the last dozen that would fit are held
back. The remaining gap is filled by the largest subset sum that fits, over the lengths of the next
buffered segments. The oldest segment is always taken, so that a segment behind j older ones waits
for at most j rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmbert.data.sampling.mixture_weights import ComponentSize, PhaseMixture
from mmbert.data.sampling.phase_sampler import PhaseSampler, mean_segment
from mmbert.recipe import Recipe

# Buffered segments searched to fill a row's gap; the second window only if the first fails.
CLOSING_WINDOWS = (64, 256)
# Fitting segments left out of the ordered prefix, so that the gap allows many subset sums.
CLOSING_RESERVE = 12
# Granularity of a batch's slots; a smaller step would compile kernels for more shapes.
SLOT_STEP = 32


@dataclass(frozen=True)
class RowShape:
    """Tokens and segment slots of a row, fixed within a phase."""

    row_tokens: int
    max_segments: int

    @classmethod
    def of(cls, row_tokens: int, mean_segment: float) -> RowShape:
        """Return the shape of rows of `row_tokens` tokens for a mean segment length."""
        return cls(row_tokens, max_segments_per_row(row_tokens, mean_segment))

    @property
    def max_prefix_segments(self) -> int:
        """Maximum segments taken in order, so that filling the gap never exceeds `max_segments`."""
        # one slot is reserved for the padding at the end of the row
        return max(1, self.max_segments - 1 - CLOSING_WINDOWS[0])


def row_shape(sampler: PhaseSampler) -> RowShape:
    """Return the shape of a phase's rows."""
    return RowShape.of(sampler.row_tokens, sampler.mean_segment)


def row_shapes(
    sizes: tuple[ComponentSize, ...], recipe: Recipe, mixtures: Sequence[PhaseMixture]
) -> tuple[RowShape, ...]:
    """Return the row shape of every phase, from `component_sizes` and `phase_mixtures`."""
    means = (mean_segment(sizes, mixture, index) for index, mixture in enumerate(mixtures))
    return tuple(RowShape.of(recipe.batch.row_tokens, mean) for mean in means)


def max_segments_per_row(row_tokens: int, mean_segment: float) -> int:
    """Return the segment slots of a row: 4 times the expected number, rounded up to 64s, plus 64.

    At most row_tokens / 3 (a segment has at least begin, end and one token), plus the padding.
    """
    expected = row_tokens / max(3.0, mean_segment)
    generous = 64 * (int(4 * expected) // 64 + 1) + CLOSING_WINDOWS[0]
    return max(2, min(generous, row_tokens // 3 + 1))


def slots_for(segments: int, max_segments: int) -> int:
    """Round `segments` (padding included) up to a multiple of SLOT_STEP, at most `max_segments`.

    On a GPU, even empty slots cost attention programs, and memory in the backward pass.
    """
    return min(-(-segments // SLOT_STEP) * SLOT_STEP, max_segments)


def prefix_length(ends: np.ndarray, shape: RowShape) -> int:
    """Return the number of oldest segments to take in order; `ends` are cumulative sizes."""
    fitting = int(np.searchsorted(ends, shape.row_tokens, side="right"))
    return max(1, min(fitting - CLOSING_RESERVE, shape.max_prefix_segments))


def choose_segments(sizes: np.ndarray, shape: RowShape) -> np.ndarray:
    """Choose the buffered segments (`sizes` int64, oldest first) of a row; ascending indices.

    Their sizes sum to at most `row_tokens`, and to exactly that if a closing window allows it.
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
    """Find the subset with the largest sum up to `target`; ascending indices.

    Bit s of `reachable[n]` is set if the first n sizes can sum to s; older sizes are preferred.
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
