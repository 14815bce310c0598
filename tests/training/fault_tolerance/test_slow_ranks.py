"""Slow ranks are named, and no others: simulated steps of 2 to 1,024 ranks."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from mmbert.training.fault_tolerance.slow_ranks import SlowRanks
from mmbert.training.metrics.own_work import WARM_UP_STEPS, OwnWork
from mmbert.training.metrics.step_timer import StepWork

LINE = 10
"""Steps between two log lines."""
Floats = npt.NDArray[np.float64]


def work(
    generator: np.random.Generator, ranks: int, steps: int, noise: float, *, heavy: bool = False
) -> Floats:
    """Own work of equal ranks [ranks, steps]: noise of each, and of all in a step."""
    if heavy:  # delays of any length, never the other way
        own = 1 + noise * np.abs(generator.standard_t(1.5, (ranks, steps)))
    else:
        own = np.exp(generator.normal(0, noise, (ranks, steps)))
    return np.asarray(own * np.exp(generator.normal(0, 0.3, steps)))


def named(ranks: SlowRanks, own: Floats) -> Iterator[tuple[int, set[int], set[int]]]:
    """Yield steps so far, and the ranks whose slowness begins and ends, for every log line."""
    for end in range(LINE, own.shape[1] + 1, LINE):
        changes = ranks.add(own[:, end - LINE : end], np.zeros(len(own)))
        yield end, {rank.rank for rank in changes.begun}, {rank.rank for rank in changes.ended}


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("noise", [0.02, 0.1, 0.4])
@pytest.mark.parametrize("ranks", [2, 3, 8, 200])
def test_of_equal_ranks_nobody_is_named(ranks: int, noise: float, heavy: bool) -> None:
    own = work(np.random.default_rng(ranks), ranks, 400, noise, heavy=heavy)
    assert not any(begun for _, begun, _ in named(SlowRanks(ranks), own))


@pytest.mark.parametrize(("ranks", "noise"), [(2, 0.05), (3, 0.05), (8, 0.01), (1024, 0.05)])
def test_a_rank_slowed_by_15_percent_is_named_within_100_steps_once(
    ranks: int, noise: float
) -> None:
    generator = np.random.default_rng(ranks)
    for begin in (0, 95):  # of the whole run, or in the middle of a line
        own = work(generator, ranks, 200, noise)
        slow = ranks // 2
        own[slow, begin:] *= 1.15
        found = [(end, begun) for end, begun, _ in named(SlowRanks(ranks), own) if begun]
        assert [begun for _, begun in found] == [{slow}]
        assert found[0][0] <= begin + 100 - WARM_UP_STEPS


def test_the_end_of_slowness_is_named_once_and_a_short_disturbance_never() -> None:
    own = work(np.random.default_rng(1), 8, 600, 0.02)
    own[5, 100:300] *= 1.2
    own[2, 400:435] *= 2.0
    lines = list(named(SlowRanks(8), own))
    assert [begun for _, begun, _ in lines if begun] == [{5}]
    ended = [(end, ended) for end, _, ended in lines if ended]
    assert [ranks for _, ranks in ended] == [{5}]
    assert 340 <= ended[0][0] <= 370


def test_half_of_the_ranks_on_a_slow_node_are_named() -> None:
    """Two nodes of four ranks, the first slow."""
    own = work(np.random.default_rng(1), 8, 100, 0.02)
    own[:4] *= 1.15
    ranks = SlowRanks(8)
    assert set[int]().union(*(begun for _, begun, _ in named(ranks, own))) == {0, 1, 2, 3}
    assert ranks.ratios().max() == pytest.approx(1.15, abs=0.02)


def test_a_long_interval_sends_no_more_than_what_is_compared() -> None:
    steps = [StepWork(own=float(number), waiting=0.5) for number in range(1000)]
    rank = OwnWork(skipped_steps=5)
    rank.add(steps[: WARM_UP_STEPS + 5])
    assert rank.take() == []
    rank.add(steps[:2])
    assert rank.take() == [0.5, 0.0, 1.0]
    rank.add(steps)
    assert rank.take() == [0.5, *range(940, 1000)]
    rank.add(steps[:3])
    rank.restart()
    rank.add(steps[: WARM_UP_STEPS + 1])
    assert rank.take() == [0.5, 0.0, 1.0, 2.0, float(WARM_UP_STEPS)]
