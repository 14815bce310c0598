"""Time of training steps per region, measured without waiting for the device.

Regions may be nested: `communication` is part of forward, backward and optimizer.

On a GPU, where the host only queues work, events are recorded before and after each region. They
are read when the interval is logged, usually long after the device has reached them. On a CPU the
host's clock is used.

Of every step the rank's own work is measured as well: reading rows, forward and backward passes,
without the time in collectives, which is spent waiting for other ranks. The optimizer is left out,
because its work differs with the part of the weights that a rank holds. On a CPU own work is the
processor time of the training thread, which passes neither in a collective nor while another
program has the core. On a GPU it is the time of the compute stream, idle or not.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

EXPOSED = "communication"
"""Region of collectives that block the compute stream."""
OVERLAPPED = "communication_beside_computing"
"""Region of collectives on another stream."""
REGIONS = (
    "backward",
    "checkpoint",
    EXPOSED,
    OVERLAPPED,
    "data",
    "forward",
    "optimizer",
)
"""All regions that are timed; a fixed list, so that ranks can sum them without naming them."""


@dataclass(frozen=True)
class StepWork:
    """A rank's work in one step, in seconds per row."""

    own: float
    waiting: float
    """In collectives, during the whole step; includes the transfer."""


@dataclass
class _Step:
    """Marks of a step."""

    began: float | int
    """Place of the step's begin: see `StepTimer._place`."""
    pieces: list[tuple[Any, Any, int, int]] = field(default_factory=list)
    """Begin and end of own work, and their places among the events."""
    open: tuple[Any, int] | None = None
    ended: float | int = 0
    rows: int = 0


class StepTimer:
    """Measures seconds per region since the last `collect()`, and the own work of every step."""

    def __init__(self, device: torch.device, *, reduces_in_backward: bool = False) -> None:
        """Args:
        reduces_in_backward: whether the engine reduces gradients in backward passes (ZeRO 2 and 3).
            On a GPU DeepSpeed then lets the host wait in them, unseen by any collective, so that
            backward passes do not count as own work.
        """
        self.on_gpu = device.type == "cuda"
        self._backward_is_own = not (self.on_gpu and reduces_in_backward)
        self._seconds: dict[str, float] = defaultdict(float)
        self._events: list[tuple[str, Any, Any]] = []
        self._step: _Step | None = None
        self._steps: list[_Step] = []
        self._work: list[StepWork] = []

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
        return self.on_gpu and torch.cuda.current_stream() != torch.cuda.default_stream()

    def mark(self) -> Any:
        """Return the current point in time: a CUDA event, or the clock on a CPU."""
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def add(self, region: str, begin: Any, end: Any) -> None:
        """Add the time between two marks to a region."""
        if self.on_gpu:
            self._events.append((region, begin, end))
        else:
            self._seconds[region] += end - begin

    def begin_step(self) -> None:
        """Begin a step with own work. A step that is not ended is forgotten."""
        self._step = _Step(self._place())
        self._resume()

    def enter_backward(self) -> None:
        """Note that a forward pass has ended."""
        if not self._backward_is_own:
            self._pause()

    def leave_backward(self) -> None:
        """Note that a backward pass has ended."""
        if not self._backward_is_own:
            self._resume()

    def end_own_work(self) -> None:
        """Note that the rank's own work in this step is done."""
        self._pause()

    def end_step(self, rows: int) -> None:
        """End the step of `rows` rows of this rank, if one has begun."""
        if self._step is not None and rows:
            self._step.ended, self._step.rows = self._place(), rows
            self._steps.append(self._step)
        self._step = None

    def _resume(self) -> None:
        if self._step is not None:
            self._step.open = self._own_mark(), len(self._events)

    def _pause(self) -> None:
        if self._step is not None and self._step.open is not None:
            begin, first = self._step.open
            self._step.pieces.append((begin, self._own_mark(), first, len(self._events)))
            self._step.open = None

    def _own_mark(self) -> Any:
        return self.mark() if self.on_gpu else time.thread_time()

    def _place(self) -> float | int:
        """Number of events so far; on a CPU the seconds in collectives so far."""
        return len(self._events) if self.on_gpu else self._seconds[EXPOSED]

    def _work_of(self, step: _Step, exposed: list[float]) -> StepWork:
        """Return the work of a step.

        Args:
            exposed: seconds in collectives before each place among the events; unused on a CPU.
        """
        if not self.on_gpu:
            own = sum(end - begin for begin, end, _, _ in step.pieces)
            return StepWork(own / step.rows, (step.ended - step.began) / step.rows)
        own = sum(
            begin.elapsed_time(end) / 1000.0 - (exposed[last] - exposed[first])
            for begin, end, first, last in step.pieces
        )
        waiting = exposed[int(step.ended)] - exposed[int(step.began)]
        return StepWork(own / step.rows, waiting / step.rows)

    def take_steps(self) -> list[StepWork]:
        """Return the work of the steps before the last `collect()`, and forget them."""
        work, self._work = self._work, []
        return work

    def collect(self) -> dict[str, float]:
        """Return the seconds per region since the last call, and reset. Waits for the device."""
        if self._events:
            torch.cuda.synchronize()
        exposed = [0.0]
        for region, begin, end in self._events:
            seconds = begin.elapsed_time(end) / 1000.0
            self._seconds[region] += seconds
            exposed.append(exposed[-1] + seconds * (region == EXPOSED))
        self._work += [self._work_of(step, exposed) for step in self._steps]
        split = dict(self._seconds)
        self._steps.clear()
        self._seconds.clear()
        self._events.clear()
        return split
