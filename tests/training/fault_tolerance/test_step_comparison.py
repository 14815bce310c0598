"""Runs of a step compared: data repeat on every rank, and a rank is blamed only for its own."""

import math
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from mmbert.training.fault_tolerance.step_comparison import (
    EXACT,
    RankLosses,
    StepRun,
    Tolerance,
    difference,
    judge,
    largest_differences,
)

NAN = math.nan
losses = st.floats(1.0, 1e3) | st.just(NAN) | st.just(math.inf)


def run_of(
    values: list[float],
    *,
    shift: int = 0,
    wrong: Callable[[int, int, float], float] = lambda rank, row, value: value,
    norm: float = 1.0,
) -> StepRun:
    """Return a run in which rank r has row r + shift, and `wrong` changes what it computes."""
    ranks = tuple(
        RankLosses(rank=rank, tensor_rank=0, host=f"n{rank}", rows={row: wrong(rank, row, value)})
        for rank in range(len(values))
        for row in [(rank + shift) % len(values)]
        for value in [values[row]]
    )
    found = [value for entry in ranks for value in entry.rows.values()]
    sound = all(map(math.isfinite, found))
    return StepRun(
        loss=sum(found), gradient_norm=norm if sound else math.inf, ranks=ranks, moved=shift > 0
    )


def failing_on(victim: int, value: float) -> Callable[[int, int, float], float]:
    return lambda rank, row, sound: value if rank == victim else sound


@given(st.lists(losses, min_size=1, max_size=5), st.integers(2, 4))
def test_what_the_data_cause_repeats_on_every_rank(values: list[float], count: int) -> None:
    runs = [run_of(values, shift=number % len(values)) for number in range(count)]
    verdict = judge(runs, EXACT)
    assert verdict.repeats
    assert (verdict.wrong, verdict.suspect) == ((), None)


@given(
    st.lists(st.floats(1.0, 1e3), min_size=2, max_size=5),
    st.data(),
    st.sampled_from([NAN, math.inf, 5e4]),
)
def test_a_rank_wrong_in_one_run_has_failed_once(
    values: list[float], data: st.DataObject, value: float
) -> None:
    victim, when = data.draw(st.integers(0, len(values) - 1)), data.draw(st.integers(0, 3))
    if value == 5e4 and when == 2:
        return  # two ranks that differ without a contradiction of their own
    runs = [
        run_of(values, shift=shift, wrong=failing_on(victim, value) if number == when else
               lambda rank, row, sound: sound)
        for number, shift in enumerate((0, 0, 1, 0))
    ]  # fmt: skip
    verdict = judge(runs, EXACT)
    assert not verdict.repeats
    assert (verdict.suspect, verdict.failures) == (f"n{victim}", 1)
    assert [entry.runs for entry in verdict.wrong] == [{when}]


@given(st.lists(st.floats(1.0, 1e3), min_size=2, max_size=5), st.data())
def test_a_rank_wrong_with_any_rows_has_failed_twice(
    values: list[float], data: st.DataObject
) -> None:
    victim = data.draw(st.integers(0, len(values) - 1))
    wrong = failing_on(victim, NAN)
    runs = [run_of(values, shift=shift, wrong=wrong) for shift in (0, 0, 1)]
    verdict = judge(runs, EXACT)
    assert (verdict.suspect, verdict.failures) == (f"n{victim}", 3)


def test_of_two_values_of_one_rank_the_repetition_is_trusted() -> None:
    (wrong,) = judge([run_of([9.0]), run_of([3.0])], EXACT).wrong
    assert wrong.runs == {0}


def test_ranks_that_round_differently_are_not_blamed() -> None:
    other = run_of([3.0, 4.0], shift=1, wrong=lambda rank, row, value: value * (1 + 1e-15))
    assert judge([run_of([3.0, 4.0]), run_of([3.0, 4.0]), other], EXACT).repeats


def test_faults_on_two_hosts_or_of_the_norm_alone_have_no_suspect() -> None:
    sound = run_of([3.0, 4.0])
    verdict = judge([run_of([NAN, NAN]), sound], EXACT)
    assert (verdict.repeats, verdict.suspect, verdict.hosts) == (False, None, ("n0", "n1"))
    verdict = judge([run_of([3.0, 4.0], norm=2.0), sound], EXACT)
    assert (verdict.repeats, verdict.suspect, verdict.hosts) == (False, None, ("n0", "n1"))
    assert judge([run_of([3.0], norm=2.0), run_of([3.0])], EXACT).suspect == "n0"


def test_the_tolerance_is_of_losses_and_of_the_norm() -> None:
    runs = [run_of([3.0], norm=2.0), run_of([3.003], norm=2.0), run_of([3.0], norm=2.02)]
    found = largest_differences(runs)
    assert 0.99e-3 < found.loss < 1.01e-3
    assert 0.99e-2 < found.gradient_norm < 1.01e-2
    assert judge(runs, found).repeats
    assert not judge(runs, Tolerance(loss=found.loss)).repeats
    assert not judge(runs, Tolerance(gradient_norm=found.gradient_norm)).repeats


def test_a_difference_from_what_is_not_finite_is_infinite() -> None:
    assert (difference(NAN, math.inf), difference(1.0, NAN)) == (0.0, math.inf)
    assert difference(0.0, 0.0) == 0.0
