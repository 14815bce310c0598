"""Time of training steps per region, measured without waiting for the device.

Regions may be nested: `communication` is part of forward, backward and optimizer.

On a GPU, where the host only queues work, events are recorded before and after each region. They
are read when the interval is logged, usually long after the device has reached them. On a CPU the
host's clock is used.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

COMMUNICATION = "communication"
"""Region of collectives that block the compute stream."""
OVERLAPPED_COMMUNICATION = "communication_beside_computing"
"""Region of collectives on another stream."""
REGIONS = (
    "backward",
    "checkpoint",
    COMMUNICATION,
    OVERLAPPED_COMMUNICATION,
    "data",
    "forward",
    "optimizer",
)
"""All regions that are timed; a fixed list, so that ranks can sum them without naming them."""


class StepTimer:
    """Measures seconds per region since the last `collect()`."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._seconds: dict[str, float] = defaultdict(float)
        self._events: list[tuple[str, Any, Any]] = []

    @contextmanager
    def host(self, region: str) -> Iterator[None]:
        """Time work on the host, such as reading data or saving checkpoints."""
        begin = time.perf_counter()
        yield
        self._seconds[region] += time.perf_counter() - begin

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Discard all times measured inside."""
        seconds, events = dict(self._seconds), len(self._events)
        yield
        self._seconds = defaultdict(float, seconds)
        del self._events[events:]

    @contextmanager
    def device(self, region: str) -> Iterator[None]:
        """Time work on the device."""
        begin = self.mark()
        yield
        self.add(region, begin, self.mark())

    def on_side_stream(self) -> bool:
        """Whether the current CUDA stream is not the default (compute) stream."""
        return self._on_gpu and torch.cuda.current_stream() != torch.cuda.default_stream()

    def mark(self) -> Any:
        """Return the current point in time: a CUDA event, or the clock on a CPU."""
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def add(self, region: str, begin: Any, end: Any) -> None:
        """Add the time between two marks to a region."""
        if self._on_gpu:
            self._events.append((region, begin, end))
        else:
            self._seconds[region] += end - begin

    def collect(self) -> dict[str, float]:
        """Return the seconds per region since the last call, and reset. Waits for the device."""
        if self._events:
            torch.cuda.synchronize()
        for region, begin, end in self._events:
            self._seconds[region] += begin.elapsed_time(end) / 1000.0
        seconds = dict(self._seconds)
        self._seconds.clear()
        self._events.clear()
        return seconds
