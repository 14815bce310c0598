"""A rank's own work: on a CPU without waiting, on a GPU what the compute stream does by itself."""

import time
from typing import Any

import pytest
import torch

from mmbert.parallel.host_group import HostGroup
from mmbert.training.metrics.communication_timer import CollectiveTimer
from mmbert.training.metrics.step_timer import EXPOSED, OVERLAPPED, StepTimer, StepWork


def test_on_a_cpu_waiting_is_not_own_work() -> None:
    timer = StepTimer(torch.device("cpu"))
    timer.end_own_work()
    timer.end_step(2)  # of a step that was not begun
    timer.begin_step()  # of a step that is not ended: its rows are skipped
    timer.begin_step()
    with timer.device(EXPOSED):
        time.sleep(0.2)
    begin = time.thread_time()
    while time.thread_time() < begin + 0.02:
        pass
    timer.end_own_work()
    with timer.device(EXPOSED):
        time.sleep(0.2)
    timer.end_step(2)
    timer.collect()
    (step,) = timer.take_steps()
    assert 0.01 <= step.own < 0.1
    assert step.waiting >= 0.2
    assert timer.take_steps() == []


class Gpu:
    """Events that take the time of a clock which the test advances."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.stream = 0.0, "computing"
        gpu = self

        class Event:
            def __init__(self, *, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                self.at = gpu.now

            def elapsed_time(self, end: "Event") -> float:
                return 1000 * (end.at - self.at)

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: self.stream)
        monkeypatch.setattr(torch.cuda, "default_stream", lambda: "computing")

    def region(self, timer: StepTimer, region: str | None, seconds: float) -> None:
        if region is None:
            self.now += seconds
        else:
            with timer.device(region):
                self.now += seconds


@pytest.mark.parametrize(("in_backward", "own"), [(False, 15.0), (True, 7.0)])
def test_on_a_gpu_exposed_communication_is_not_own_work(
    monkeypatch: pytest.MonkeyPatch, in_backward: bool, own: float
) -> None:
    """Under ZeRO 2 and 3 backward passes are not either."""
    gpu = Gpu(monkeypatch)
    timer = StepTimer(torch.device("cuda"), reduces_in_backward=in_backward)
    gpu.region(timer, EXPOSED, 50)  # before the step
    for _ in range(2):
        timer.begin_step()
        for _ in range(2):
            gpu.region(timer, EXPOSED, 10)
            gpu.region(timer, None, 5)
            gpu.region(timer, OVERLAPPED, 2)
            timer.enter_backward()
            gpu.region(timer, EXPOSED, 20)
            gpu.region(timer, None, 8)
            timer.leave_backward()
        timer.end_own_work()
        gpu.region(timer, EXPOSED, 100)
        timer.end_step(2)
        gpu.region(timer, None, 500)  # logging
    timer.collect()
    assert timer.take_steps() == [StepWork(own, (2 * 30 + 100) / 2)] * 2


def test_on_a_gpu_the_compute_stream_waits_for_side_streams(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = Gpu(monkeypatch)

    class Stream:
        def __init__(self, name: str) -> None:
            self.name = name

        def __eq__(self, other: object) -> bool:
            return self.name == getattr(other, "name", other)

        def wait_stream(self, other: Any) -> None:
            gpu.now += 3

    original = Stream.__dict__["wait_stream"]
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    timer = StepTimer(torch.device("cuda"))
    collectives = CollectiveTimer(timer)
    Stream("reducing").wait_stream(None)
    assert timer.collect() == {}
    Stream("computing").wait_stream(None)
    assert timer.collect() == {EXPOSED: 3.0}
    gpu.stream = "reducing"
    Stream("computing").wait_stream(None)
    assert timer.collect() == {}
    collectives.close()
    assert Stream.__dict__["wait_stream"] is original


def test_a_single_process_gathers_its_own_numbers() -> None:
    assert HostGroup(0, 1).gather_numbers([1.5, 2.0]).tolist() == [[1.5, 2.0]]
