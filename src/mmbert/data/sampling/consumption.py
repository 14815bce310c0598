"""Pieces of each component drawn so far, and the numbers that the next phase draws.

A component's pieces form an endless sequence of epochs: number m is piece perm_e(m mod D) of epoch
e = m // D. Streams advance at different speeds, so at the end of a phase some numbers below the
highest drawn one have not been seen: slower streams had not reached them, or a stream still held
the whole piece. They are the *gaps* below the *high-water mark*. The next phase draws the gaps
first, then continues at the high-water mark, so that no number is skipped or drawn twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmbert.data.sampling.mixture import UNLIMITED, Mixture, stream_rotation

_NUMBER_BITS = 44


@dataclass(frozen=True)
class PhaseEnd:
    """Final state of a phase."""

    positions: np.ndarray
    """int64 [V]: pieces drawn by each stream."""
    returned_components: np.ndarray
    """int64 [n]: components of the whole pieces that were returned unused."""
    returned_numbers: np.ndarray
    """int64 [n]: their numbers."""


class Consumption:
    """Pieces drawn of each of C components.

    Args:
        high_water_mark: int64 [C], one above the highest number drawn.
        gaps: int64, undrawn numbers below it, ascending within each component.
        offsets: int64 [C + 1], boundaries of the components in `gaps`.
    """

    def __init__(self, high_water_mark: np.ndarray, gaps: np.ndarray, offsets: np.ndarray) -> None:
        self.high_water_mark = high_water_mark
        self.gaps = gaps
        self._offsets = offsets

    @classmethod
    def empty(cls, components: int) -> Consumption:
        """Return the state before any piece is drawn."""
        return cls(
            np.zeros(components, dtype=np.int64),
            np.empty(0, dtype=np.int64),
            np.zeros(components + 1, dtype=np.int64),
        )

    @property
    def gap_counts(self) -> np.ndarray:
        """Gaps of each component, int64 [C]."""
        return np.diff(self._offsets)

    def drawn(self) -> np.ndarray:
        """Return the pieces drawn of each component over all epochs, int64 [C]."""
        return self.high_water_mark - self.gap_counts

    def numbers(self, components: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Return the numbers (int64) of draws k = 0, 1, … of the next phase."""
        gaps = self.gap_counts[components]
        numbers = self.high_water_mark[components] + draws - gaps
        in_gap = draws < gaps
        if in_gap.any():
            places = self._offsets[components[in_gap]] + draws[in_gap]
            numbers[in_gap] = self.gaps[places]
        return numbers

    def draws_below(self, limits: np.ndarray) -> np.ndarray:
        """Return the draws left before a component's numbers reach `limits`, int64 [C].

        UNLIMITED stays UNLIMITED.
        """
        left = self.gap_counts + np.maximum(0, limits - self.high_water_mark)
        return np.where(limits < UNLIMITED, left, UNLIMITED)

    def after(self, mixture: Mixture, rotation_key: int, end: PhaseEnd) -> Consumption:
        """Return the consumption after a phase that drew from `mixture` in this state."""
        components = len(self.high_water_mark)
        streams = len(end.positions)
        undrawn_components, undrawn_draws = _undrawn(mixture, rotation_key, end.positions)
        reached = mixture.counts_before(int(end.positions.max()) * streams)
        old_counts = self.gap_counts
        # gaps not reached by the phase
        untouched = [
            np.stack(
                (
                    np.full(max(0, int(old_counts[c] - reached[c])), c),
                    self.gaps[self._offsets[c] + reached[c] : self._offsets[c + 1]],
                )
            )
            for c in np.flatnonzero(old_counts > reached)
        ]
        owners = np.concatenate(
            [undrawn_components.astype(np.int64), end.returned_components]
            + [pair[0] for pair in untouched]
        )
        numbers = np.concatenate(
            [self.numbers(undrawn_components, undrawn_draws), end.returned_numbers]
            + [pair[1] for pair in untouched]
        )
        # One integer per gap sorts ten times faster than two keys; a run draws far fewer than
        # 2^44 pieces of a component.
        keys = np.sort((owners << _NUMBER_BITS) | numbers)
        offsets = np.concatenate(([0], np.cumsum(np.bincount(owners, minlength=components))))
        high_water_mark = self.high_water_mark + np.maximum(0, reached - old_counts)
        return Consumption(
            high_water_mark, keys & ((1 << _NUMBER_BITS) - 1), offsets.astype(np.int64)
        )


def _undrawn(
    mixture: Mixture, rotation_key: int, positions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find the pieces (component, draw) of slower streams before the fastest stream's position."""
    streams = len(positions)
    first, last = int(positions.min()) * streams, int(positions.max()) * streams
    if mixture.total is not None:
        last = min(last, mixture.total)
    found_components, found_draws = [np.empty(0, np.int32)], [np.empty(0, np.int64)]
    while first < last:
        block = mixture.block(mixture.block_of(first))
        end = min(last, block.first + len(block.components))
        groups = np.arange(first // streams, -(-end // streams))
        rotation = stream_rotation(groups, rotation_key, streams)
        # [groups, streams]: the stream of each piece; pieces that it has not reached
        stream = (np.arange(streams) - rotation[:, None]) % streams
        numbers = np.flatnonzero(positions[stream] <= groups[:, None]) + groups[0] * streams
        missed = numbers[(numbers >= first) & (numbers < end)] - block.first
        found_components.append(block.components[missed])
        found_draws.append(block.draws[missed])
        first = end
    return np.concatenate(found_components), np.concatenate(found_draws)
