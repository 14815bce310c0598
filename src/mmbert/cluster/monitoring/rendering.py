"""The screen of `mmbert status`, and the same as JSON."""

import dataclasses
import datetime
from collections.abc import Iterator
from typing import Any

from rich.console import RenderableType

from mmbert.cluster.monitoring.job_states import JobState, State
from mmbert.cluster.monitoring.run_progress import RunProgress
from mmbert.cluster.monitoring.status import Status
from mmbert.command_line.tables import WholeTable
from mmbert.recipe import format_quantity


def render_status(status: Status) -> Iterator[RenderableType]:
    """Yield what is printed, from top to bottom."""
    yield f"{status.folder}" + (f", recipe {status.recipe}" if status.recipe else "")
    if status.jobs:
        yield _jobs(status.jobs)
    if not status.queue_known:
        yield "Slurm's queue is not shown: squeue is not on this machine, or does not answer"
    for job in status.jobs:
        if job.state in (State.FAILED, State.UNKNOWN, State.CANCELED) and job.log is not None:
            yield f"{job.step}: {job.error or 'its log is empty'}\n  log: {job.log}"
    if status.runs:
        yield _runs(status.runs)
        yield from _hours(status)
    for report in status.nodes:
        left_out = "; left out of the next start" if report.exclude else ""
        yield (
            f"node {report.host} {report.problem.value} at {_clock(report.unix_time)}: "
            f"{report.detail}{left_out}"
        )


def status_as_json(status: Status) -> dict[str, Any]:
    """Return the status as values of JSON; times are Unix times, durations seconds."""
    runs = []
    for run in status.runs:
        values = dataclasses.asdict(run)
        values["nodes"] = [report.model_dump(mode="json") for report in run.nodes]
        values["ends"] = _ends(run)
        runs.append(values | {"folder": str(run.folder)})
    jobs = [
        dataclasses.asdict(job) | {"log": None if job.log is None else str(job.log)}
        for job in status.jobs
    ]
    return {
        "folder": str(status.folder),
        "recipe": status.recipe,
        "queue_known": status.queue_known,
        "jobs": jobs,
        "runs": runs,
        "gpu_hours_used": status.hours_used,
        "gpu_hours_lost": status.hours_lost,
    }


def _jobs(jobs: tuple[JobState, ...]) -> WholeTable:
    table = WholeTable("step", "state", "job", "time", "nodes", "", box=None, pad_edge=False)
    for job in jobs:
        table.add_row(job.step, job.state.value, job.job, job.elapsed, job.nodes, job.detail)
    return table


def _runs(runs: tuple[RunProgress, ...]) -> WholeTable:
    table = WholeTable(
        *("training", "step", "phase", "tokens/s", "MFU", "ends"), box=None, pad_edge=False
    )
    for run in runs:
        rate = run.tokens_per_second
        ends = _ends(run)
        table.add_row(
            run.name,
            f"{run.step:,}" + (f" of {run.steps:,}" if run.steps else ""),
            run.phase,
            "-" if rate is None else format_quantity(round(rate)),
            "-" if run.mfu is None else f"{run.mfu:.1%}",
            "done" if run.finished else "-" if ends is None else _clock(ends),
        )
    return table


def _hours(status: Status) -> Iterator[str]:
    if not any(run.hours.starts for run in status.runs):
        return
    unit = "GPU-hours" if any(run.hours.gpus for run in status.runs) else "task-hours (no GPUs)"
    starts = sum(run.hours.starts for run in status.runs)
    lost = f"{status.hours_lost:,.2f} of them lost to restarts"
    yield f"{status.hours_used:,.2f} {unit} used in {starts} starts, {lost}"


def _ends(run: RunProgress) -> float | None:
    """Return the expected end at the rate of the last log line, if the run went on since."""
    if run.finished or run.logged is None or run.seconds_left is None:
        return None
    return run.logged + run.seconds_left


def _clock(unix_time: float) -> str:
    return datetime.datetime.fromtimestamp(unix_time).strftime("%Y-%m-%d %H:%M")
