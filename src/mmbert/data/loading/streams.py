"""Virtual data streams: each packs its share of a phase's pieces into rows.

A stream resumes from the small state recorded with every row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from mmbert.data.loading.packing import CLOSING_WINDOWS, choose_segments, prefix_length, row_shape
from mmbert.data.sampling.consumption import Consumption, PhaseEnd
from mmbert.data.sampling.phase_sampler import (
    COLUMNS,
    COMPONENT,
    NUMBER,
    SIZE,
    START,
    PhaseSampler,
    PieceLocator,
    segment_sizes,
)

_MIN_FETCHED, _MAX_FETCHED = 64, 4096


class StreamState(TypedDict):
    """State of one stream; JSON-serializable.

    Segments and ranges are [component index, number, first token, tokens].
    """

    position: int
    """Pieces drawn in this phase."""
    carried: list[list[int]]
    """Pending segments, oldest first."""
    kept: list[list[int]]
    """Deferred ranges: remainders from earlier phases, of languages not sampled in this one."""


@dataclass(frozen=True)
class Ranges:
    """Token ranges of documents: int64 arrays [n]."""

    component: np.ndarray
    number: np.ndarray
    start: np.ndarray
    size: np.ndarray

    @classmethod
    def of(cls, entries: list[list[int]]) -> Ranges:
        """Convert the lists of a StreamState."""
        table = np.array(entries, dtype=np.int64).reshape(-1, 4)
        return cls(table[:, 0], table[:, 1], table[:, 2], table[:, 3])

    def where(self, chosen: np.ndarray) -> list[list[int]]:
        """Return the chosen ranges as lists for a StreamState."""
        return np.stack((self.component, self.number, self.start, self.size), axis=1)[
            chosen
        ].tolist()


class Stream:
    """Stream `number` of a phase; `next_row()` returns the segments of its next row.

    If epoch caps bind every language and leave barely enough text, a stream may run out before the
    end of the phase; its last rows are then padding, not repeated text.

    Args:
        read_ahead: request the text of drawn pieces from the OS a row or two before use, all at
            once, since remote storage serves many requests in parallel.
    """

    def __init__(
        self, sampler: PhaseSampler, number: int, state: StreamState, *, read_ahead: bool = False
    ) -> None:
        self._sampler = sampler
        self._shape = row_shape(sampler)
        self._read_ahead = read_ahead
        self._number = number
        self._position = state["position"]
        self._deferred = state["kept"]
        self._buffer = _located(sampler, Ranges.of(state["carried"]))
        if read_ahead:
            sampler.locator.read_ahead(self._buffer)
        # Segments of the pieces fetched beyond the position, and their number in each piece.
        self._ahead = np.empty((0, COLUMNS), dtype=np.int64)
        self._ahead_counts = np.empty(0, dtype=np.int64)
        per_row = sampler.row_tokens / sampler.mean_piece
        self._fetched = int(min(max(2 * per_row, _MIN_FETCHED), _MAX_FETCHED))

    def next_row(self) -> np.ndarray:
        """Return the table [segments, COLUMNS] of the next row, oldest segment first."""
        shape = self._shape
        self._fill_buffer_to_tokens(shape.row_tokens)
        ends = np.cumsum(segment_sizes(self._buffer))
        self._fill_buffer_to_segments(prefix_length(ends, shape) + CLOSING_WINDOWS[0])
        chosen = choose_segments(segment_sizes(self._buffer), shape)
        row = self._buffer[chosen]
        stays = np.ones(len(self._buffer), dtype=bool)
        stays[chosen] = False
        self._buffer = self._buffer[stays]
        return row

    def state_dict(self) -> StreamState:
        """Return the state after the rows returned so far."""
        return {
            "position": self._position,
            "carried": self._buffer[:, [COMPONENT, NUMBER, START, SIZE]].tolist(),
            "kept": self._deferred,
        }

    def _fill_buffer_to_tokens(self, tokens: int) -> None:
        """Draw whole pieces one by one until at least `tokens` are buffered."""
        missing = tokens - int(segment_sizes(self._buffer).sum())
        while missing > 0 and self._fetch():
            ends = np.cumsum(segment_sizes(self._ahead))
            piece_ends = np.cumsum(self._ahead_counts)
            needed = int(np.searchsorted(ends[piece_ends - 1], missing)) + 1
            missing -= int(ends[piece_ends[min(needed, len(piece_ends)) - 1] - 1])
            self._fill_buffer(needed)

    def _fill_buffer_to_segments(self, segments: int) -> None:
        """Draw pieces until at least `segments` segments are buffered."""
        while (missing := segments - len(self._buffer)) > 0 and self._fetch():
            self._fill_buffer(int(np.searchsorted(np.cumsum(self._ahead_counts), missing)) + 1)

    def _fill_buffer(self, pieces: int) -> None:
        pieces = min(pieces, len(self._ahead_counts))
        segments = int(self._ahead_counts[:pieces].sum())
        self._buffer = np.concatenate((self._buffer, self._ahead[:segments]))
        self._ahead, self._ahead_counts = self._ahead[segments:], self._ahead_counts[pieces:]
        self._position += pieces

    def _fetch(self) -> bool:
        """Fetch pieces if no fetched ones are left; return whether any are available."""
        if not len(self._ahead_counts):
            components, numbers = self._sampler.draw(self._number, self._position, self._fetched)
            self._ahead, self._ahead_counts = self._sampler.segments(components, numbers)
            if self._read_ahead:
                self._sampler.locator.read_ahead(self._ahead)
        return len(self._ahead_counts) > 0


def initial_state() -> StreamState:
    """Return the state of a stream before its first row."""
    return {"position": 0, "carried": [], "kept": []}


def _located(sampler: PhaseSampler, ranges: Ranges) -> np.ndarray:
    """Return the segment table of ranges that fit the context."""
    pieces = sampler.locator.locate(ranges.component, ranges.number)
    table, _ = sampler.cut(
        ranges.component, ranges.number, pieces, ranges.start, ranges.start + ranges.size
    )
    return table


def close_phase(
    locator: PieceLocator, states: list[StreamState]
) -> tuple[PhaseEnd, list[list[list[int]]]]:
    """End a phase, given the states of all streams in order.

    Returns:
        The phase's end, with whole pending pieces returned to their components; and the remainders
        of started pieces for each stream, joined into ranges.
    """
    components, numbers = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    remainders = []
    for state in states:
        ranges = _joined(Ranges.of(state["carried"]))
        pieces = locator.locate(ranges.component, ranges.number)
        whole = (ranges.start == pieces.start) & (ranges.size == pieces.end - pieces.start)
        components.append(ranges.component[whole])
        numbers.append(ranges.number[whole])
        remainders.append(state["kept"] + ranges.where(~whole))
    end = PhaseEnd(
        positions=np.array([state["position"] for state in states], dtype=np.int64),
        returned_components=np.concatenate(components),
        returned_numbers=np.concatenate(numbers),
    )
    return end, remainders


def _joined(ranges: Ranges) -> Ranges:
    """Join adjacent ranges of a piece, ordered by component, number and first token."""
    if not len(ranges.component):
        return ranges
    order = np.lexsort((ranges.start, ranges.number, ranges.component))
    component, number = ranges.component[order], ranges.number[order]
    start, size = ranges.start[order], ranges.size[order]
    begins = np.ones(len(order), dtype=bool)
    begins[1:] = (
        (component[1:] != component[:-1])
        | (number[1:] != number[:-1])
        | (start[1:] != start[:-1] + size[:-1])
    )
    first = np.flatnonzero(begins)
    return Ranges(component[first], number[first], start[first], np.add.reduceat(size, first))


def open_phase(sampler: PhaseSampler, remainders: list[list[list[int]]]) -> list[StreamState]:
    """Return the initial states of all streams of a phase, given remainders of earlier phases.

    Remainders of languages sampled in this phase come first in the stream, cut to the phase's
    context; the others stay deferred.
    """
    states: list[StreamState] = []
    for entries in remainders:
        ranges = Ranges.of(entries)
        takes_part = sampler.active[ranges.component]
        own = Ranges.of(ranges.where(takes_part))
        pieces = sampler.locator.locate(own.component, own.number)
        table, _ = sampler.cut(own.component, own.number, pieces, own.start, own.start + own.size)
        states.append(
            {
                "position": 0,
                "carried": table[:, [COMPONENT, NUMBER, START, SIZE]].tolist(),
                "kept": ranges.where(~takes_part),
            }
        )
    return states


def next_consumption(sampler: PhaseSampler, end: PhaseEnd) -> Consumption:
    """Return the consumption of every component after this phase."""
    return sampler.consumption.after(sampler.mixture, sampler.rotation_key, end)
