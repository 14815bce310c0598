"""The mixture's sequence is at most one piece off the schedule, with random access."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbert.data.sampling.mixture import UNLIMITED, Mixture, stream_rotation

RATES = st.lists(
    st.lists(st.one_of(st.just(0.0), st.floats(0.01, 60)), min_size=3, max_size=3),
    min_size=1,
    max_size=4,
).filter(lambda rows: sum(rows[-1]) > 1)


def _mixture(rows: list[list[float]], **options: object) -> Mixture:
    pieces = np.array(rows)
    return Mixture(pieces, ("web/a", "web/b", "web/c"), "key", **options)  # type: ignore[arg-type]


@given(RATES, st.integers(4, 300))
@settings(max_examples=40, deadline=None)
def test_within_one_of_the_schedule_at_every_point(
    rows: list[list[float]], pieces_per_block: int
) -> None:
    """At each piece of the sequence, some progress x explains all counts within one."""
    mixture = _mixture(rows, pieces_per_block=pieces_per_block)
    pieces = np.array(rows)
    cumulative = np.concatenate((np.zeros((1, 3)), np.cumsum(pieces, axis=0)))
    counts = np.zeros(3, dtype=np.int64)
    number = 0
    for block_number in range(mixture.blocks):
        np.testing.assert_array_equal(mixture.counts(block_number), counts)
        block = mixture.block(block_number)
        assert block.first == number
        start = block_number / mixture.blocks * len(rows)
        end = (block_number + 1) / mixture.blocks * len(rows)
        for component, draw in zip(block.components.tolist(), block.draws.tolist(), strict=True):
            assert draw == counts[component]  # consecutive, none left out
            counts[component] += 1
            number += 1
            # the earliest and the latest progress at which these counts are within one
            low, high = start, end
            for c in range(3):
                low = max(low, _inverse(cumulative[:, c], counts[c] - 1, start, end)[0])
                high = min(high, _inverse(cumulative[:, c], counts[c] + 1, start, end)[1])
            assert low <= high + 1e-6


def _inverse(cumulative: np.ndarray, value: float, start: float, end: float) -> tuple[float, float]:
    """Return the range of progress in [start, end] where a component's schedule equals value."""
    at_start, at_end = (
        float(np.interp(x, np.arange(len(cumulative)), cumulative)) for x in (start, end)
    )
    if value <= at_start:
        return start, start if value < at_start else end
    if value >= at_end:
        return (end if value > at_end else start), end
    x = start + (value - at_start) / (at_end - at_start) * (end - start)
    return x, x


@given(RATES, st.lists(st.integers(0, 600), min_size=1, max_size=30))
@settings(max_examples=30, deadline=None)
def test_any_piece_is_found_without_the_ones_before(
    rows: list[list[float]], numbers: list[int]
) -> None:
    walked = _mixture(rows, pieces_per_block=64)
    components, draws = walked.pieces(np.arange(601))
    wanted = np.sort(np.array(numbers))
    for found in (_mixture(rows, pieces_per_block=64), walked):
        got_components, got_draws = found.pieces(wanted)
        np.testing.assert_array_equal(got_components, components[wanted])
        np.testing.assert_array_equal(got_draws, draws[wanted])
    for number in wanted[:3].tolist():
        expected = np.bincount(components[:number], minlength=3)
        np.testing.assert_array_equal(walked.counts_before(number), expected)


def test_counts_follow_a_moving_schedule_to_the_end() -> None:
    rows = [[300.0, 0.0, 10.5], [200.0, 100.0, 10.5], [0.0, 300.0, 10.5]]
    mixture = _mixture(rows, pieces_per_block=50)
    np.testing.assert_allclose(mixture.counts(mixture.blocks), [500, 400, 31.5], atol=1)
    # and beyond the end at the last rate
    beyond = mixture.counts(2 * mixture.blocks) - mixture.counts(mixture.blocks)
    np.testing.assert_allclose(beyond, [0, 900, 31.5], atol=1)


def test_an_epoch_cap_is_never_exceeded() -> None:
    limits = np.array([30, 5, 40])
    mixture = _mixture([[100.0, 100.0, 100.0]], limits=limits, pieces_per_block=20)
    components, draws = mixture.pieces(np.arange(75))
    np.testing.assert_array_equal(np.bincount(components), limits)
    assert len(set(zip(components.tolist(), draws.tolist(), strict=True))) == 75
    assert mixture.total == 75
    with pytest.raises(IndexError, match="has 75 pieces"):
        mixture.pieces(np.array([75]))
    without_end = _mixture([[1.0, 2.0, 3.0]], limits=np.array([3, UNLIMITED, 4]))
    assert without_end.total is None
    assert len(without_end.pieces(np.arange(100))[0]) == 100


def test_low_rates_get_their_chance_without_bias() -> None:
    """A language with 0.3 expected pieces gets one in three runs out of ten."""
    drawn = []
    for run in range(1000):
        mixture = Mixture(np.array([[50.0, 0.3]]), ("web/a", "web/b"), f"run {run}")
        drawn.append(int(mixture.counts(mixture.blocks)[1]))
    assert set(drawn) == {0, 1}
    assert abs(np.mean(drawn) - 0.3) < 0.05


def test_streams_share_every_language_even_when_it_comes_once_per_round() -> None:
    streams = 8
    mixture = _mixture([[700.0, 100.0, 0.0]])
    components, _ = mixture.pieces(np.arange(800))
    groups = np.arange(800) // streams
    stream = (np.arange(800) - stream_rotation(groups, 12345, streams)) % streams
    for group in range(100):
        assert sorted(stream[group * streams : (group + 1) * streams]) == list(range(streams))
    per_stream = np.bincount(stream[components == 1], minlength=streams)
    assert per_stream.min() >= 3
    assert per_stream.max() <= 28
