"""Consumption compared with plain sets: gaps, high-water marks and returned pieces."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbert.data.sampling.consumption import Consumption, PhaseEnd
from mmbert.data.sampling.mixture import UNLIMITED, Mixture, stream_rotation


def test_no_cap_stays_no_cap() -> None:
    consumption = Consumption(np.array([7, 9]), np.array([3]), np.array([0, 1, 1]))
    left = consumption.draws_below(np.array([10, UNLIMITED]))
    assert left.tolist() == [4, UNLIMITED]


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_consumption_equals_plain_bookkeeping(data: st.DataObject) -> None:
    """Compare phases with arbitrary stream positions and returned pieces with plain sets.

    Also after more pieces than fit 16 or 32-bit integers.
    """
    streams = data.draw(st.integers(1, 4))
    before = data.draw(st.sampled_from([0, 2**16 - 3, 2**31 - 3, 2**32 - 3, 2**40]))
    consumption = Consumption(
        np.full(2, before), np.empty(0, dtype=np.int64), np.zeros(3, dtype=np.int64)
    )
    seen: list[set[int]] = [set(), set()]
    for number in range(data.draw(st.integers(1, 4))):
        rates = np.array([data.draw(st.sampled_from([(8.0, 4.0), (5.0, 0.0), (0.5, 9.0)]))])
        mixture = Mixture(rates, ("web/a", "web/b"), f"phase {number}", pieces_per_block=6)
        positions = np.array([data.draw(st.integers(0, 9)) for _ in range(streams)])
        drawn = []
        for stream in range(streams):
            groups = np.arange(positions[stream])
            turned = stream + stream_rotation(groups, 99, streams)
            components, draws = mixture.pieces(groups * streams + turned % streams)
            numbers = consumption.numbers(components, draws)
            drawn += list(zip(components.tolist(), numbers.tolist(), strict=True))
        returned = [piece for piece in drawn if data.draw(st.integers(0, 3)) == 0]
        for component, piece in drawn:
            assert piece not in seen[component]
            seen[component].add(piece)
        for component, piece in returned:
            seen[component].remove(piece)
        end = PhaseEnd(
            positions,
            np.array([c for c, _ in returned], dtype=np.int64),
            np.array([n for _, n in returned], dtype=np.int64),
        )
        consumption = consumption.after(mixture, 99, end)
        for component in range(2):
            many = len(seen[component]) + 20
            upcoming = consumption.numbers(
                np.full(many, component), np.arange(many, dtype=np.int64)
            )
            candidates = range(before, before + 2 * many)
            free = [n for n in candidates if n not in seen[component]][:many]
            assert upcoming.tolist() == free
            assert consumption.drawn()[component] == before + len(seen[component])


def test_a_phase_of_trillions_of_pieces_ends_exactly() -> None:
    """Streams are at 2^40 and a little more; the pieces that they did not reach are the gaps."""
    streams, key = 4, 99
    mixture = Mixture(np.array([[2.0**42, 2.0**41, 3.0]]), ("web/a", "web/b", "web/c"), "far")
    positions = 2**40 + np.array([5, 0, 3, 9])
    numbers = np.arange(2**40 * streams, (2**40 + 9) * streams)
    turn = stream_rotation(numbers // streams, key, streams)
    missed = positions[(numbers - turn) % streams] <= numbers // streams
    components, draws = mixture.pieces(numbers)
    assert len(set(zip(components.tolist(), draws.tolist(), strict=True))) == len(numbers)
    end = PhaseEnd(positions, np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
    after = Consumption.empty(3).after(mixture, key, end)
    for component in range(3):
        gaps = np.sort(draws[missed & (components == component)]).tolist()
        drawn = draws[~missed & (components == component)]
        upcoming = after.numbers(np.full(len(gaps) + 2, component), np.arange(len(gaps) + 2))
        high_water_mark = int(after.high_water_mark[component])
        assert upcoming.tolist() == [*gaps, high_water_mark, high_water_mark + 1]
        assert high_water_mark > max([*gaps, *drawn.tolist(), 0])
    assert after.drawn().sum() == positions.sum()
