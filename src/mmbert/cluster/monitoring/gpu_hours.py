"""GPU-hours that the starts of a run used, and what restarts lost of it.

Lost is the time of a start since the checkpoint from which the next one continued.
"""

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmbert.journals.run_journal import StartEvent


@dataclass(frozen=True)
class GpuHours:
    """Hours of all GPUs of the starts of a run."""

    used: float
    lost: float
    starts: int
    gpus: int
    """GPUs of the last start; 0 on CPUs, whose hours are then those of the tasks."""


@dataclass(frozen=True)
class _Start:
    begin: StartEvent
    until: float


def gpu_hours(
    events: Sequence[StartEvent],
    checkpoints: Mapping[int, float],
    activity: Sequence[float],
    now: float | None = None,
) -> GpuHours:
    """Sum up the starts of a run.

    Args:
        events: begins and ends of starts, oldest first.
        checkpoints: step -> unix times of the first commit of its checkpoint.
        activity: sorted unix times of lines of the run's log. A start that was killed lasted until
            the last one before the next start.
        now: unix time if the last start is still running; None if it is not.
    """
    starts = _starts(events, activity, now)
    used = lost = 0.0
    for number, start in enumerate(starts):
        width = start.begin.gpus or start.begin.tasks
        used += width * max(0.0, start.until - start.begin.unix_time)
        if number + 1 < len(starts):
            saved = checkpoints.get(starts[number + 1].begin.step, 0.0)
            since = max(start.begin.unix_time, min(saved, start.until))
            lost += width * max(0.0, start.until - since)
    last = starts[-1].begin.gpus if starts else 0
    return GpuHours(used / 3600, lost / 3600, len(starts), last)


def _starts(
    events: Sequence[StartEvent], activity: Sequence[float], now: float | None
) -> list[_Start]:
    """Pair begins with their ends, or with the last sign of life before the next begin."""
    found: list[_Start] = []
    for number, event in enumerate(events):
        if event.status is not None:
            continue
        following = events[number + 1] if number + 1 < len(events) else None
        if following is not None and following.status is not None:
            until = following.unix_time
        elif following is None and now is not None:
            until = now
        else:
            limit = following.unix_time if following is not None else float("inf")
            place = bisect.bisect_left(activity, limit)
            until = max(event.unix_time, activity[place - 1] if place else 0.0)
        found.append(_Start(event, until))
    return found
