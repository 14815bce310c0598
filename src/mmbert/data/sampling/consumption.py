"""What has been drawn of every component so far, and what the next phase therefore draws.

A component's pieces form an endless sequence of epochs: number m is piece perm_e(m mod D) of epoch
e = m // D. Streams advance at different speeds, so a phase ends with a ragged edge: numbers that
slower streams had not reached, or that a stream still carried whole, were not seen. They are the
*holes* below the *horizon*; the next phase draws the holes first, then from the horizon on. So no
number is skipped or drawn twice, whatever the phases.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmbert.data.sampling.mixture import UNLIMITED, Mixture, stream_rotation

_NUMBER_BITS = 44


@dataclass(frozen=True)
class PhaseEnd:
    """How a phase ended: `positions` int64 [V], pieces drawn by each stream; and the pieces that
    went back whole, as `returned_components` and `returned_numbers` int64 [n]."""

    positions: np.ndarray
    returned_components: np.ndarray
    returned_numbers: np.ndarray


class Consumption:
    """Horizon int64 [C]; holes int64, ascending per component, split by offsets int64 [C + 1]."""

    def __init__(self, high_water_mark: np.ndarray, gaps: np.ndarray, offsets: np.ndarray) -> None:
        self.high_water_mark = high_water_mark
        self.gaps = gaps
        self._offsets = offsets

    @classmethod
    def empty(cls, components: int) -> Consumption:
        """Nothing drawn yet of any component."""
        return cls(
            np.zeros(components, dtype=np.int64),
            np.empty(0, dtype=np.int64),
            np.zeros(components + 1, dtype=np.int64),
        )

    @property
    def gap_counts(self) -> np.ndarray:
        """int64 [C]: holes of each component."""
        return np.diff(self._offsets)

    def drawn(self) -> np.ndarray:
        """int64 [C]: pieces drawn of each component so far, over all epochs."""
        return self.high_water_mark - self.gap_counts

    def numbers(self, components: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """int64: the numbers that draws k = 0, 1, … of the next phase stand for."""
        gaps = self.gap_counts[components]
        numbers = self.high_water_mark[components] + draws - gaps
        in_gap = draws < gaps
        if in_gap.any():
            places = self._offsets[components[in_gap]] + draws[in_gap]
            numbers[in_gap] = self.gaps[places]
        return numbers

    def draws_below(self, limits: np.ndarray) -> np.ndarray:
        """int64 [C]: draws that the next phase has before a component's numbers reach `limits`
        (UNLIMITED stays so)."""
        left = self.gap_counts + np.maximum(0, limits - self.high_water_mark)
        return np.where(limits < UNLIMITED, left, UNLIMITED)

    def after(self, mixture: Mixture, rotation_key: int, end: PhaseEnd) -> Consumption:
        """The consumption once a phase that drew from `mixture` in this state has ended."""
        components = len(self.high_water_mark)
        streams = len(end.positions)
        undrawn_components, undrawn_draws = _undrawn(mixture, rotation_key, end.positions)
        reached = mixture.counts_before(int(end.positions.max()) * streams)
        old_counts = self.gap_counts
        # holes that the phase never came to
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
        # One integer per hole sorts ten times faster than two keys; a run draws far fewer than
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
    """Component and draw of the pieces before the fastest stream that slower ones did not reach."""
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
        # [groups, streams]: which stream takes each piece, and whether it came so far
        stream = (np.arange(streams) - rotation[:, None]) % streams
        numbers = np.flatnonzero(positions[stream] <= groups[:, None]) + groups[0] * streams
        missed = numbers[(numbers >= first) & (numbers < end)] - block.first
        found_components.append(block.components[missed])
        found_draws.append(block.draws[missed])
        first = end
    return np.concatenate(found_components), np.concatenate(found_draws)
