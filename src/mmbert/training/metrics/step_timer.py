"""Where a step's time goes: seconds per region, without waiting for the device.

Regions may lie within one another: `communication` is part of forward, backward and optimizer.

On a GPU the work is queued, so the clock of the host would measure the queueing. There an event is
put before and after each region, and the events are read when the interval is logged, long after
the device has passed them. On a CPU the host's clock is the truth.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class StepTimer:
    """Seconds per region since the last `collect()`."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._seconds: dict[str, float] = defaultdict(float)
        self._events: list[tuple[str, Any, Any]] = []

    @contextmanager
    def host(self, region: str) -> Iterator[None]:
        """Time work of the host (reading data, writing checkpoints)."""
        begin = time.perf_counter()
        yield
        self._seconds[region] += time.perf_counter() - begin

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time nothing of what happens within."""
        seconds, events = dict(self._seconds), len(self._events)
        yield
        self._seconds = defaultdict(float, seconds)
        del self._events[events:]

    @contextmanager
    def device(self, region: str) -> Iterator[None]:
        """Time work that runs on the device."""
        begin = self.mark()
        yield
        self.add(region, begin, self.mark())

    def on_side_stream(self) -> bool:
        """Whether what is queued now goes to another stream than the one that computes."""
        return self._on_gpu and torch.cuda.current_stream() != torch.cuda.default_stream()

    def mark(self) -> Any:
        """A point in the device's work: an event on a GPU, the clock on a CPU."""
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def add(self, region: str, begin: Any, end: Any) -> None:
        """Add the time between two marks to an region."""
        if self._on_gpu:
            self._events.append((region, begin, end))
        else:
            self._seconds[region] += end - begin

    def collect(self) -> dict[str, float]:
        """The seconds since the last call, by region, and start anew. Waits for the device."""
        if self._events:
            torch.cuda.synchronize()
        for region, begin, end in self._events:
            self._seconds[region] += begin.elapsed_time(end) / 1000.0
        seconds = dict(self._seconds)
        self._seconds.clear()
        self._events.clear()
        return seconds
