"""Closed-form mixture of one phase: the component of its n-th piece.

W_c(x), the expected number of pieces of component c drawn by progress x, is tabulated at the knots
of a phase and linear between them. Piece k of component c (k = 0, 1, …) is placed where
W_c(x) + phi_c reaches k + 1; the phase's sequence is all pieces of all components in order of
place. At every point floor(W_c + phi_c) pieces of a component have been drawn, which is never more
than one off the schedule. The sequence is evaluated in blocks of equal progress: finding any piece
is a binary search, and no array grows with the run. Past the end of the phase the sequence
continues at its last rates, for streams that need more pieces than expected.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmbert.data.sampling.permutation import splitmix64, unit_of

PIECES_PER_BLOCK = 16_384
_CACHED_BLOCKS = 128
UNLIMITED = 2**62  # exceeds the draws of any run


@dataclass(frozen=True)
class Block:
    """Pieces `first` to `first + len(components) - 1` of the sequence: component and draw k."""

    first: int
    components: np.ndarray  # int32
    draws: np.ndarray  # int64


class Mixture:
    """Sequence of pieces of one phase.

    Args:
        pieces: float64 [K, C], expected pieces of each of C components in K equal parts of the
            phase.
        names: stable names of the components.
        key: source of the shifts phi (seed and phase).
        limits: int64 [C], maximum draws of each component (an epoch cap, or UNLIMITED).

    Attributes:
        expected_pieces: scheduled length of the sequence.
        total: number of pieces available; None if unlimited.
    """

    def __init__(
        self,
        pieces: np.ndarray,
        names: tuple[str, ...],
        key: str,
        *,
        limits: np.ndarray | None = None,
        pieces_per_block: int = PIECES_PER_BLOCK,
    ) -> None:
        self._active = np.flatnonzero(pieces.sum(axis=0) > 0).astype(np.int32)
        self._component_count = pieces.shape[1]
        rates = np.ascontiguousarray(pieces[:, self._active], dtype=np.float64)
        self._parts = len(rates)
        self._at_knots = np.concatenate((np.zeros((1, rates.shape[1])), np.cumsum(rates, axis=0)))
        self._shift = np.array([unit_of(key, "shift", names[c]) for c in self._active])
        self._limits = None if limits is None else limits[self._active]
        self.expected_pieces: float = math.fsum(self._at_knots[-1])
        self._blocks_per_part = max(
            1, round(self.expected_pieces / (pieces_per_block * self._parts))
        )
        self.total: int | None = self._total(rates[-1])
        self._cache: OrderedDict[int, Block] = OrderedDict()
        self._firsts: dict[int, int] = {0: 0}

    def _total(self, last_pace: np.ndarray) -> int | None:
        """Return the pieces available under the epoch caps; None if unlimited."""
        if self._limits is None:
            return None
        ends = (self._limits < UNLIMITED) | (last_pace == 0)
        if not ends.all():
            return None
        at_end = np.floor(self._at_knots[-1] + self._shift).astype(np.int64)
        return int(np.minimum(self._limits, np.where(last_pace > 0, self._limits, at_end)).sum())

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cache": OrderedDict(), "_firsts": {0: 0}}

    @property
    def blocks(self) -> int:
        """Scheduled number of blocks (the sequence continues beyond)."""
        return self._parts * self._blocks_per_part

    def expected(self, block: int) -> np.ndarray:
        """Return W_c at the start of a block, float64 [C]."""
        result = np.zeros(self._component_count)
        result[self._active] = self._expected(block)
        return result

    def counts(self, block: int) -> np.ndarray:
        """Return the pieces of each component before a block, int64 [C]."""
        result = np.zeros(self._component_count, dtype=np.int64)
        result[self._active] = self._counts(block)
        return result

    def first_piece(self, block: int) -> int:
        """Return the number of the first piece of a block."""
        first = self._firsts.get(block)
        if first is None:
            first = int(self._counts(block).sum())
            if len(self._firsts) > 100_000:
                self._firsts = {0: 0}
            self._firsts[block] = first
        return first

    def block(self, block: int) -> Block:
        """Return the pieces of one block in order."""
        cached = self._cache.get(block)
        if cached is not None:
            self._cache.move_to_end(block)
            return cached
        start, end = self._counts(block), self._counts(block + 1)
        now, after = self._expected(block), self._expected(block + 1)
        many = end - start
        total = int(many.sum())
        owner = np.repeat(np.arange(len(many)), many)
        ordinal = np.arange(total) - np.repeat(np.cumsum(many) - many, many)
        draws = start[owner] + ordinal
        # Position within the block where W, linear in the block, reaches draws + 1 - shift.
        pace = after - now
        place = ((draws + 1) - (now + self._shift)[owner]) / np.where(pace > 0, pace, 1.0)[owner]
        # The ordinal in the low bits makes every key distinct, so that any sorting algorithm (numpy
        # picks one by processor) gives the same order.
        low_bits = max(1, int(total).bit_length())
        high = float(2 ** (62 - low_bits))
        keys = (np.clip(place, 0.0, 1.0) * high).astype(np.int64) << low_bits
        keys |= np.arange(total)
        keys.sort()
        order = keys & ((1 << low_bits) - 1)
        result = Block(self.first_piece(block), self._active[owner[order]], draws[order])
        self._cache[block] = result
        if len(self._cache) > _CACHED_BLOCKS:
            self._cache.popitem(last=False)
        return result

    def block_of(self, piece: int) -> int:
        """Return the block of piece number `piece`. Raises IndexError past the last piece."""
        if self.total is not None and piece >= self.total:
            raise IndexError(f"the sequence has {self.total} pieces, not {piece + 1}")
        per_block = max(1.0, self.expected_pieces / self.blocks)
        guess = int(piece / per_block)
        low, high = max(0, guess - 1), guess + 1
        while self.first_piece(low) > piece:
            low = max(0, low - 2 * (high - low))
        step = 1
        while self.first_piece(high) <= piece:
            low, high = high, high + step
            step *= 2
        while high - low > 1:
            middle = (low + high) // 2
            if self.first_piece(middle) <= piece:
                low = middle
            else:
                high = middle
        return low

    def pieces(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return component (int32) and draw k (int64) of pieces; `numbers` must ascend."""
        components = np.empty(len(numbers), dtype=np.int32)
        draws = np.empty(len(numbers), dtype=np.int64)
        done = 0
        number = self.block_of(int(numbers[0])) if len(numbers) else 0
        while done < len(numbers):
            block = self.block(number)
            end = int(np.searchsorted(numbers, block.first + len(block.components)))
            places = numbers[done:end] - block.first
            components[done:end] = block.components[places]
            draws[done:end] = block.draws[places]
            if end == done:  # empty block: search ahead instead of walking
                number = self.block_of(int(numbers[done]))
                continue
            done, number = end, number + 1
        return components, draws

    def counts_before(self, piece: int) -> np.ndarray:
        """Return the pieces of each component among the first `piece` pieces, int64 [C]."""
        if self.total is not None:
            piece = min(piece, self.total)
        if piece == 0:
            return np.zeros(self._component_count, dtype=np.int64)
        number = self.block_of(piece - 1)
        block = self.block(number)
        inside = block.components[: piece - block.first]
        return self.counts(number) + np.bincount(inside, minlength=self._component_count)

    def _expected(self, block: int) -> np.ndarray:
        part = min(block // self._blocks_per_part, self._parts - 1)
        inside = (block - part * self._blocks_per_part) / self._blocks_per_part
        start = self._at_knots[part]
        return start + inside * (self._at_knots[part + 1] - start)

    def _counts(self, block: int) -> np.ndarray:
        counts = np.floor(self._expected(block) + self._shift).astype(np.int64)
        return counts if self._limits is None else np.minimum(counts, self._limits)


def stream_rotation(groups: np.ndarray, key: int, streams: int) -> np.ndarray:
    """Return the rotation (int64) of each group of `streams` consecutive pieces.

    Stream s takes the piece at (s + rotation) mod streams of each group. Without the rotation, a
    language with a period of `streams` pieces would always go to the same stream.
    """
    with np.errstate(over="ignore"):
        hashed = splitmix64(groups.astype(np.uint64) + np.uint64(key))
    return (hashed % np.uint64(streams)).astype(np.int64)
