"""The loss monitor: spikes, the limit of non-finite steps, saved state."""

import random

import pytest

from mmbert.errors import UserError
from mmbert.recipe import GuardSettings
from mmbert.training.fault_tolerance.loss_monitor import LossMonitor, SkippedSteps


def falling_losses(count: int) -> list[float]:
    generator = random.Random(3)
    return [4.0 * 0.999**i + generator.gauss(0, 0.05) for i in range(count)]


def test_ordinary_noise_on_a_falling_loss_is_no_spike() -> None:
    monitor = LossMonitor(GuardSettings())
    assert not any(monitor.is_spike(loss) for loss in falling_losses(2000))


def test_a_spike_is_seen_and_does_not_become_the_measure() -> None:
    monitor = LossMonitor(GuardSettings())
    for loss in falling_losses(100):
        monitor.is_spike(loss)
    assert all(monitor.is_spike(9.0) for _ in range(150))
    assert not monitor.is_spike(3.6)


def test_the_threshold_counts_standard_deviations() -> None:
    """The MAD of normal noise is 1 / 1.4826 of its standard deviation."""
    settings = GuardSettings(spike_threshold=4.0)
    for factor, expected in ((4.0, False), (5.7, False), (6.1, True)):
        monitor = LossMonitor(settings)
        for loss in [4.0, 3.8, 4.2, 3.8, 4.2] * 6:  # around 4.0, their median deviation is 0.2
            assert not monitor.is_spike(loss)
        assert monitor.is_spike(4.0 + factor * 0.2) is expected


def test_nothing_is_a_spike_before_there_is_a_history() -> None:
    monitor = LossMonitor(GuardSettings())
    assert not monitor.is_spike(1.0)
    assert not monitor.is_spike(1000.0)


def test_another_phase_has_another_level() -> None:
    monitor = LossMonitor(GuardSettings())
    for loss in falling_losses(50):
        monitor.is_spike(loss)
    monitor.start_phase()
    assert not monitor.is_spike(9.0)


def test_without_a_threshold_nothing_is_a_spike() -> None:
    monitor = LossMonitor(GuardSettings(spike_threshold=None))
    for loss in falling_losses(50):
        monitor.is_spike(loss)
    assert not monitor.is_spike(1e9)


def test_bad_steps_are_forgiven_up_to_the_limit_and_after_a_thousand_steps() -> None:
    monitor = LossMonitor(GuardSettings(non_finite_limit=2))
    monitor.count_non_finite(5)
    monitor.count_non_finite(6)
    monitor.count_non_finite(1005)  # step 5 is out of the window
    with pytest.raises(UserError, match="in 3 of the last 1000 steps"):
        monitor.count_non_finite(1005)


def test_a_continued_guard_judges_as_the_undisturbed_one() -> None:
    losses = [*falling_losses(80), 6.0, *falling_losses(5)]
    whole = LossMonitor(GuardSettings())
    expected = [whole.is_spike(loss) for loss in losses]
    first = LossMonitor(GuardSettings())
    answers = [first.is_spike(loss) for loss in losses[:60]]
    second = LossMonitor(GuardSettings())
    second.load_state_dict(first.state_dict())
    assert answers + [second.is_spike(loss) for loss in losses[60:]] == expected
    assert expected.count(True) == 1


def test_skipped_steps_outlive_the_process(tmp_path) -> None:  # type: ignore[no-untyped-def]
    skipped = SkippedSteps.read(tmp_path)
    assert skipped.steps == set()
    skipped.add(range(4, 6))
    skipped.write()
    again = SkippedSteps.read(tmp_path)
    assert (again.steps, again.rollbacks) == ({4, 5}, 1)
