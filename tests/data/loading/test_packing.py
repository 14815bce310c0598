"""Rows are full, pieces stay whole, and no segment waits long."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbert.data.loading.packing import (
    CLOSING_WINDOWS,
    RowShape,
    choose_segments,
    max_segments_per_row,
    prefix_length,
)
from mmbert.data.shards.continuation_index import count_parts, part_bounds


def _segments(random: np.random.Generator, count: int, mean: float, context: int) -> np.ndarray:
    """Draw segment sizes of documents with log-normal lengths, as in web text."""
    lengths = np.maximum(1, random.lognormal(np.log(mean) - 0.5, 1.0, count)).astype(np.int64)
    parts = count_parts(lengths, context)
    owner = np.repeat(np.arange(count), parts)
    part = np.arange(len(owner)) - np.repeat(np.cumsum(parts) - parts, parts)
    start, end = part_bounds(lengths[owner], context, part)
    return end - start + 2


def _pack(sizes: np.ndarray, shape: RowShape, rows: int) -> tuple[list[int], list[int], list[int]]:
    """Return the padding of each row, and for each segment the rows waited and older segments."""
    waiting = np.empty((0, 3), dtype=np.int64)  # size, row of arrival, older ones at arrival
    padding, waits, before = [], [], []
    taken = 0
    for row in range(rows):
        while (
            waiting[:, 0].sum() < shape.row_tokens
            or len(waiting) < prefix_length(np.cumsum(waiting[:, 0]), shape) + CLOSING_WINDOWS[0]
        ):
            waiting = np.concatenate((waiting, [[sizes[taken], row, len(waiting)]]))
            taken += 1
        chosen = choose_segments(waiting[:, 0], shape)
        padding.append(shape.row_tokens - int(waiting[chosen, 0].sum()))
        waits += (row - waiting[chosen, 1]).tolist()
        before += waiting[chosen, 2].tolist()
        waiting = np.delete(waiting, chosen, axis=0)
    return padding, waits, before


@pytest.mark.parametrize(
    ("row_tokens", "context", "mean"),
    [
        (49_152, 1024, 50),
        (49_152, 1024, 1000),
        (49_152, 8192, 50),
        (49_152, 8192, 1000),
        (49_152, 8192, 3000),
        (2048, 256, 50),
        (4096, 512, 200),
        (4096, 1024, 600),
        (2048, 1024, 400),
    ],
)
def test_rows_are_full_and_nothing_starves(row_tokens: int, context: int, mean: float) -> None:
    random = np.random.default_rng(1)
    sizes = _segments(random, 30_000, mean, context)
    shape = RowShape(row_tokens, max_segments_per_row(row_tokens, float(sizes.mean())))
    rows = min(60, int(sizes.sum() * 0.9 / row_tokens))
    padding, waits, before = _pack(sizes, shape, rows)
    assert min(padding) >= 0
    assert sum(padding) <= 0.0005 * rows * row_tokens
    assert max(padding) <= 0.005 * row_tokens
    # the bound: at most as many rows as there were older segments; in practice a few
    assert all(wait <= older for wait, older in zip(waits, before, strict=True))
    assert np.mean(waits) < 12


@given(
    st.lists(st.integers(3, 60), min_size=1, max_size=60),
    st.integers(60, 200),
    st.integers(2, 40),
)
@settings(deadline=None)
def test_a_row_never_overflows_and_takes_the_oldest(
    sizes: list[int], row_tokens: int, max_segments: int
) -> None:
    shape = RowShape(row_tokens, max_segments)
    chosen = choose_segments(np.array(sizes), shape)
    assert chosen[0] == 0
    assert (np.diff(chosen) > 0).all()
    assert sum(sizes[i] for i in chosen) <= row_tokens
    assert len(chosen) < max(2, max_segments)


@given(st.lists(st.integers(3, 60), min_size=2, max_size=11), st.integers(60, 150))
@settings(deadline=None)
def test_the_gap_is_closed_as_well_as_any_subset_could(sizes: list[int], row_tokens: int) -> None:
    """Compare with all subsets of a dozen segments, of which the oldest is always taken."""
    shape = RowShape(row_tokens, 1000)
    chosen = choose_segments(np.array(sizes), shape)
    sums = {sizes[0]}
    for size in sizes[1:]:
        sums |= {total + size for total in sums if total + size <= row_tokens}
    assert sum(sizes[i] for i in chosen) == max(sums)


def test_same_lengths_leave_what_cannot_be_filled() -> None:
    chosen = choose_segments(np.full(500, 1000), RowShape(4096, 320))
    assert len(chosen) == 4


def test_what_the_next_segments_cannot_close_later_ones_do() -> None:
    """Sixty-four segments of 100 tokens never fill 4,097; one of 97 behind them does."""
    sizes = np.full(200, 100)
    shape = RowShape(4097, 1000)
    assert sizes[choose_segments(sizes, shape)].sum() == 4000
    sizes[28 + 70] = 97  # 28 are taken in order; the 64 after them are the first window
    assert sizes[choose_segments(sizes, shape)].sum() == 4097


def test_slots_suffice_for_short_pieces_and_are_few_for_long_ones() -> None:
    assert max_segments_per_row(49_152, 500.0) < 600
    assert max_segments_per_row(2048, 5.0) == 2048 // 3 + 1
    sizes = np.full(4000, 3)
    chosen = choose_segments(sizes, RowShape(2048, max_segments_per_row(2048, 3.0)))
    assert sizes[chosen].sum() >= 0.995 * 2048
