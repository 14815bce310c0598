"""Why a start of the ranks ended, and what to do next: pure functions, no processes.

A start is told apart by its exit status, by what the ranks reported, by the watchdog's report and
by the nodes that Slurm has lost, in this order of trust: a lost node explains all the others.
"""

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum

from mmbert.cluster.restart.placement import Placement
from mmbert.errors import EXIT_SAVED_START_AGAIN, EXIT_USER_ERROR
from mmbert.journals.rank_failures import FailureKind, RankFailure

RESTARTS_WITHOUT_CHECKPOINT = 3
"""Restarts within a job before it gives up, unless a newer checkpoint was saved in between."""


class Cause(StrEnum):
    """Why a start ended."""

    DONE = "done"
    SAVED = "saved"
    USER_ERROR = "error that you can fix"
    NO_SPACE = "no space left on the disk"
    DEAD_NODE = "dead node"
    NO_LAUNCH = "no task can be started on any node"
    HANG = "hang"
    KILLED = "killed"
    FAILED = "failed"


class Action(Enum):
    """What the loop does after a start."""

    END = "end the job"
    RESTART = "start the ranks again, in this allocation"
    REQUEUE = "give the nodes back and wait in the queue"


@dataclass(frozen=True)
class Outcome:
    """What is known after a start."""

    status: int
    """Exit status of the launcher; 128 + signal number if a signal ended it or a task."""
    placement: Placement
    failures: Sequence[RankFailure] = ()
    hang_report: str | None = None
    """First line of the watchdog's report, if it wrote one in this start."""
    dead_nodes: tuple[tuple[str, str], ...] = ()
    """Lost hosts, each with how that is known."""
    no_launch: bool = False
    """Whether Slurm starts no task on any node of the job, such as in an allocation that it made
    while it was losing a node."""
    asked_to_stop: bool = False
    """Whether the ranks were told to save and exit."""


def is_certain(status: int, failures: Sequence[RankFailure], *, asked_to_stop: bool) -> bool:
    """Return whether a start's end says by itself that no node was lost, so that none is probed."""
    if status in (0, EXIT_SAVED_START_AGAIN):
        return True
    if status == EXIT_USER_ERROR or _of_kind(failures, FailureKind.NO_SPACE):
        return True
    return asked_to_stop and status in _STOPPED_AT_START


# A signal that arrives before the ranks handle it kills them; nothing is lost.
_STOPPED_AT_START = frozenset((128 + signal.SIGUSR1, 128 + signal.SIGTERM))


def cause_of(outcome: Outcome) -> tuple[Cause, str]:
    """Return the cause of a start's end, and a description for people in a few words."""
    status, failures = outcome.status, outcome.failures
    if status == 0:
        return Cause.DONE, Cause.DONE
    if status == EXIT_SAVED_START_AGAIN:
        return Cause.SAVED, Cause.SAVED
    if outcome.asked_to_stop and status in _STOPPED_AT_START:
        return Cause.SAVED, "stopped during startup"
    if full := _of_kind(failures, FailureKind.NO_SPACE):
        return Cause.NO_SPACE, _described(Cause.NO_SPACE, full)
    if status == EXIT_USER_ERROR:
        said = _of_kind(failures, FailureKind.USER)
        return Cause.USER_ERROR, _described(Cause.USER_ERROR, said)
    if outcome.dead_nodes:
        named = ", ".join(f"{host} ({why})" for host, why in outcome.dead_nodes)
        return Cause.DEAD_NODE, f"{Cause.DEAD_NODE}: {named}"
    if outcome.no_launch:
        return Cause.NO_LAUNCH, Cause.NO_LAUNCH
    if outcome.hang_report is not None:
        return Cause.HANG, f"{Cause.HANG}: {outcome.hang_report}"
    if own := _of_kind(failures, FailureKind.OTHER, FailureKind.USER):
        return Cause.FAILED, _described(Cause.FAILED, own)
    if status > 128:
        return Cause.KILLED, _killed(outcome)
    return Cause.FAILED, f"failed with status {status}; no rank reported why"


def action_after(
    cause: Cause, *, restarts: int, asked_to_stop: bool = False, preempted: bool = False
) -> Action:
    """Return what to do after a start.

    Args:
        restarts: restarts of this job since the newest checkpoint; of `NO_LAUNCH`, the requeues for
            it in a row.
        asked_to_stop: whether the job was told to leave, so that a restart would have no time.
        preempted: whether Slurm is taking the nodes away.
    """
    if cause in (Cause.DONE, Cause.USER_ERROR, Cause.NO_SPACE):
        return Action.END
    if cause in (Cause.SAVED, Cause.DEAD_NODE) or preempted:
        return Action.REQUEUE
    if restarts >= RESTARTS_WITHOUT_CHECKPOINT:
        return Action.END
    return Action.REQUEUE if asked_to_stop or cause is Cause.NO_LAUNCH else Action.RESTART


def _of_kind(failures: Sequence[RankFailure], *kinds: FailureKind) -> list[RankFailure]:
    """Return the failures of these kinds, the earliest first."""
    return sorted((f for f in failures if f.kind in kinds), key=lambda f: f.unix_time)


def _described(cause: Cause, failures: Sequence[RankFailure]) -> str:
    if not failures:
        return str(cause)
    first = failures[0]
    where = f"rank {first.rank}" + (f" on {first.host}" if first.host else "")
    return f"{cause}: {where}" + (f": {first.text}" if first.text else "")


def _killed(outcome: Outcome) -> str:
    """Describe ranks that a signal ended: those that reported nothing, if others did."""
    number = outcome.status - 128
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    reported = {failure.rank for failure in outcome.failures}
    silent = [rank for rank in range(outcome.placement.tasks) if rank not in reported]
    memory = ", often for lack of host memory" if number == signal.SIGKILL else ""
    if not reported or not silent:
        return f"{Cause.KILLED}: {name}{memory}; the first `Killed` in the log names the rank"
    named = ", ".join(f"{rank} on {outcome.placement.host_of(rank)}" for rank in silent[:4])
    more = f" and {len(silent) - 4} more" if len(silent) > 4 else ""
    return f"{Cause.KILLED}: {name} of rank {named}{more}{memory}"
