"""Place, speed, end and GPU-hours of a run, from its log and journals."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from mmbert.cluster.monitoring.gpu_hours import GpuHours, gpu_hours
from mmbert.journals.run_journal import (
    NODE_REPORTS_NAME,
    STARTS_NAME,
    NodeReport,
    StartEvent,
    read_records,
)

LOG_NAME = "log.jsonl"
NO_HOURS = GpuHours(0.0, 0.0, 0, 0)


@dataclass(frozen=True)
class RunProgress:
    """Progress of a run, or of a variant of it."""

    name: str
    folder: Path
    step: int = 0
    steps: int = 0
    """Steps of the whole run; 0 if no line of the log says it."""
    phase: str = ""
    tokens_per_second: float | None = None
    mfu: float | None = None
    """Model FLOPs utilization; None if the device's peak is not known."""
    seconds_left: float | None = None
    """At the rate of the last line."""
    logged: float | None = None
    """Unix time of the last line."""
    hours: GpuHours = NO_HOURS
    nodes: tuple[NodeReport, ...] = ()
    """What was reported about nodes, oldest first."""

    @property
    def finished(self) -> bool:
        """Whether the last step is done."""
        return 0 < self.steps <= self.step


def read_progress(name: str, folder: Path, *, running: bool) -> RunProgress | None:
    """Read the progress of the run in `folder`; None if it never started.

    Args:
        name: name in the table.
        running: whether a job of it runs now.
    """
    starts = list(read_records(folder / STARTS_NAME, StartEvent))
    nodes = tuple(read_records(folder / NODE_REPORTS_NAME, NodeReport))
    log = folder / LOG_NAME
    if not log.is_file() and not starts:
        return None
    last: dict[str, Any] = {}
    checkpoints: dict[int, float] = {}
    times: list[float] = []
    if log.is_file():
        with log.open("rb") as lines:
            for line in lines:
                # The last line may be incomplete, and lines of records are long.
                is_record = b'"tokens_per_second"' in line
                if not is_record and b'"event"' not in line:
                    continue
                try:
                    found = orjson.loads(line)
                except orjson.JSONDecodeError:
                    continue
                written = found.get("unix_time", found.get("time"))
                if isinstance(written, int | float):
                    times.append(written)
                if is_record and "event" not in found:
                    last = found
                elif found.get("event") == "checkpoint" and isinstance(written, int | float):
                    checkpoints.setdefault(int(found["step"]), written)
    times.sort()
    return RunProgress(
        name=name,
        folder=folder,
        step=int(last.get("step", 0)),
        steps=int(last.get("steps", 0)),
        phase=str(last.get("phase", "")),
        tokens_per_second=last.get("tokens_per_second"),
        mfu=last.get("mfu"),
        seconds_left=last.get("seconds_left"),
        logged=times[-1] if times else None,
        hours=gpu_hours(starts, checkpoints, times, time.time() if running else None),
        nodes=nodes,
    )
