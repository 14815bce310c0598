"""The state of every step of a chain, from queue, accounting, finished files and logs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from mmbert.cluster.attempts import MOST_FAILURES, failures_in_place
from mmbert.cluster.chain import ChainFolder, ChainRecord, JobRecord
from mmbert.cluster.monitoring.queue import ENDED_BADLY, QueuedJob
from mmbert.cluster.site import StepName
from mmbert.journals.run_journal import StartEvent, read_records

_TAIL_BYTES = 1 << 16
_ERROR = re.compile(r"error|exited with|killed|out of memory", re.IGNORECASE)
_OF_SLURM = re.compile(r"^(srun|slurmstepd|slurmd)\b|see the error above|FAILED with status")


class State(StrEnum):
    """State of a step."""

    DONE = "done"
    RUNNING = "running"
    WAITING = "waiting"
    FAILED = "failed"
    CANCELED = "canceled"
    """Never started, because a step before it failed, or its user canceled it."""
    TO_DO = "to do"
    """Not submitted."""
    UNKNOWN = "not done"
    """Submitted and not done; whether it is in the queue is not known."""


@dataclass(frozen=True)
class JobState:
    """State of a step, or of a task of its array."""

    step: str
    state: State
    job: str = ""
    detail: str = ""
    elapsed: str = ""
    nodes: str = ""
    log: Path | None = None
    error: str | None = None
    """Last line of the log that tells an error."""


def step_states(
    folder: ChainFolder,
    record: ChainRecord,
    done: Mapping[tuple[StepName, str | None], bool],
    queue: Sequence[QueuedJob] | None,
    accounting: Sequence[QueuedJob],
) -> list[JobState]:
    """Return the states of all steps in order.

    Args:
        done: (step, variant) -> whether its output is complete, in the order of the steps.
        queue: jobs of the queue; None if it is not known.
        accounting: jobs that ended, as far as the accounting has them.
    """
    found: list[JobState] = []
    for (step, variant), is_done in done.items():
        earlier = next(
            (
                one.step
                for one in found
                if one.state in (State.FAILED, State.CANCELED) and one.step.split()[0] != step
            ),
            None,
        )
        name = step if variant is None else f"{step} {variant}"
        job = record.latest(step)
        if job is None:
            found.append(JobState(name, State.DONE if is_done else State.TO_DO))
            continue
        found.append(_state(folder, name, job, variant, is_done, queue, accounting, earlier))
    return found


def _state(
    folder: ChainFolder,
    name: str,
    job: JobRecord,
    variant: str | None,
    done: bool,
    queue: Sequence[QueuedJob] | None,
    accounting: Sequence[QueuedJob],
    earlier: str | None,
) -> JobState:
    task = next((index for index, one in job.tasks.items() if one == variant), None)
    if variant is not None and task is None:  # done before the job was submitted
        return JobState(name, State.DONE if done else State.TO_DO)
    log = job.log(folder, task)
    log_there = log if log.is_file() else None
    number = job.job if task is None else f"{job.job}_{task}"
    entries = [
        one
        for one in (*(queue or ()), *accounting)
        if one.job == job.job and (task is None or one.has_task(task))
    ]
    entry = next((one for one in entries if one.left), entries[0] if entries else None)
    elapsed, nodes = ("", "") if entry is None else (entry.elapsed, entry.node_names or entry.nodes)
    attempts = _attempts(folder, job, variant)
    if entry is not None and entry.left:
        running = entry.state not in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT")
        details = [attempts] if attempts else []
        if not running:
            details += [entry.reason] if entry.reason else []
            details += [f"expected to start {entry.start}"] if entry.start else []
        return JobState(
            name,
            State.RUNNING if running else State.WAITING,
            number,
            "; ".join(details),
            elapsed if running else "",
            nodes if running else "",
            log_there,
        )
    if done:
        return JobState(name, State.DONE, number, "", elapsed, nodes, log_there)
    if entry is not None and entry.state == "COMPLETED":
        return JobState(name, State.TO_DO, number, "completed, but its output is not there")
    if queue is None and not accounting:
        error = None if log_there is None else last_error(log_there)
        return JobState(name, State.UNKNOWN, number, attempts, "", "", log_there, error)
    if log_there is None and earlier is not None:
        return JobState(name, State.CANCELED, number, f"{earlier} failed")
    if log_there is None and entry is not None and entry.state.startswith("CANCELLED"):
        return JobState(name, State.CANCELED, number, entry.reason)
    slurm = "" if entry is None or entry.state not in ENDED_BADLY else entry.state
    details = [one for one in ("" if slurm == "FAILED" else slurm.lower(), attempts) if one]
    state = State.CANCELED if slurm == "CANCELLED" else State.FAILED
    return JobState(
        name,
        state,
        number,
        "; ".join(details),
        elapsed,
        nodes,
        log_there,
        None if log_there is None else last_error(log_there),
    )


def _attempts(folder: ChainFolder, job: JobRecord, variant: str | None) -> str:
    """Return how often a job failed at its place, from the journal of the step; empty if not."""
    if job.step in ("pretrain", "decay"):
        return ""
    events = list(read_records(folder.journal(job.step), StartEvent))
    mine = [event for event in events if event.job == job.job]
    # A begin without an end is the start that runs now, or is counted at the next one.
    ended = mine[:-1] if mine and mine[-1].status is None else mine
    failures = failures_in_place(ended, job.job, mine[-1].step) if mine else []
    return f"failed {len(failures)} of {MOST_FAILURES} times" if failures else ""


def last_error(log: Path) -> str | None:
    """Return the last line of a log that tells an error, else its last line; None if it is empty.

    A program's own words come before Slurm's about its exit status.
    """
    with log.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - _TAIL_BYTES))
        text = file.read().decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if _ERROR.search(line)]
    own = [line for line in telling if not _OF_SLURM.search(line)]
    return next((found[-1] for found in (own, telling, lines) if found), None)
