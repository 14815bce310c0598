"""Metrics of a log line."""

import numpy as np
import pytest

from mmbert.training.metrics.interval_metrics import IntervalSums
from mmbert.training.metrics.log_metrics import SmoothedRate, throughput_metrics

SUMS = IntervalSums(
    component_tokens=np.array([300.0, 90.0]),
    trained_tokens=np.array([600.0, 180.0]),
    row_tokens=400.0,
    flops=8e12,
    seconds=2.0,
    time_split={"data": 0.25},
    peak_memory_bytes=3 << 20,
    own_work=np.zeros((2, 0)),
)


def test_time_left_is_at_the_recent_rate() -> None:
    """The remaining time counts padding, as the schedule does; tokens per second do not."""
    metrics = throughput_metrics(
        SUMS,
        devices=2,
        peak_flops=4e12,
        recent_rate=100.0,
        phase_tokens_left=1000,
        tokens_left=5000,
    )
    assert (metrics["seconds_left_in_phase"], metrics["seconds_left"]) == (10.0, 50.0)
    assert metrics["tokens_per_second"] == 195.0
    assert metrics["tokens_per_second_per_device"] == 97.5
    assert metrics["mfu"] == 0.5
    assert metrics["peak_memory_mib"] == 3.0


def test_no_mfu_where_the_peak_is_not_known() -> None:
    """A CPU, or an unknown GPU."""
    metrics = throughput_metrics(
        SUMS, devices=1, peak_flops=None, recent_rate=1.0, phase_tokens_left=0, tokens_left=0
    )
    assert metrics["mfu"] is None


def test_rate_is_the_first_intervals_then_follows_slowly() -> None:
    """A slow step hardly changes the remaining time."""
    rate = SmoothedRate()
    rate.update(200, 2.0)
    assert rate.tokens_per_second == 100.0
    for _ in range(100):
        rate.update(200, 2.0)
    rate.update(200, 20.0)
    assert 70 < rate.tokens_per_second < 80
    for _ in range(200):
        rate.update(200, 1.0)
    assert rate.tokens_per_second == pytest.approx(200.0, rel=0.01)
