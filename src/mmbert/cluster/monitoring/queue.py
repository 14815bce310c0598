"""Jobs of Slurm's queue and accounting, as `squeue` and `sacct` print them."""

import getpass
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SECONDS = 30
ENDED_BADLY = (
    "BOOT_FAIL", "CANCELLED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
    "TIMEOUT", "REVOKED",
)  # fmt: skip
"""States of jobs that do not run again by themselves."""
LEFT = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT",
        "CONFIGURING", "RUNNING", "SUSPENDED", "STOPPED", "COMPLETING", "RESIZING", "SIGNALING",
        "STAGE_OUT")  # fmt: skip
"""States of jobs that are in the queue."""
# Reason last: Slurm's text is the only one that may hold a separator.
_FORMAT = "%i|%T|%M|%D|%k|%S|%N|%r"
_ID = re.compile(r"(\d+)(?:_(\d+|\[.*\]))?")


@dataclass(frozen=True)
class QueuedJob:
    """A job, or task of an array, in the queue or the accounting."""

    job: str
    """Number of the job, of an array that of all tasks."""
    task: str | None
    """Number of the task of an array, or `[0-1]` for those that wait together."""
    state: str
    elapsed: str
    nodes: str
    comment: str = ""
    start: str = ""
    """When it started or is expected to start; empty if unknown."""
    node_names: str = ""
    reason: str = ""

    @property
    def left(self) -> bool:
        """Whether it is in the queue."""
        return self.state in LEFT

    @property
    def name(self) -> str:
        """Number as Slurm prints it."""
        return self.job if self.task is None else f"{self.job}_{self.task}"

    def has_task(self, task: int) -> bool:
        """Return whether a task of an array is this one, or among those that wait together."""
        if self.task is None:
            return True
        parts = self.task.strip("[]").split("%")[0].split(",")
        for part in parts:
            first, _, last = part.partition("-")
            bounds = last.partition(":")[0] or first
            if first.isdigit() and bounds.isdigit() and int(first) <= task <= int(bounds):
                return True
        return False


def has_slurm() -> bool:
    """Return whether this machine can ask for the queue."""
    return shutil.which("squeue") is not None


def queued_jobs(users: Iterable[str] = ()) -> list[QueuedJob] | None:
    """Return the jobs of this user and of `users`, those that ended minutes ago too.

    None if Slurm is not on this machine or does not answer.
    """
    names = ",".join(dict.fromkeys((getpass.getuser(), *users)))
    text = _answer("squeue", "--noheader", "--states=all", f"--user={names}", f"--format={_FORMAT}")
    return None if text is None else [job for line in text.splitlines() for job in _queued(line)]


def accounted_jobs(jobs: Sequence[str]) -> list[QueuedJob]:
    """Return the states of `jobs` from the accounting; empty where there is none."""
    text = None
    if jobs and shutil.which("sacct") is not None:
        text = _answer(
            *("sacct", "--parsable2", "--noheader", "--allocations", f"--jobs={','.join(jobs)}"),
            "--format=JobID,State,Elapsed,NNodes",
        )
    found = []
    for line in (text or "").splitlines():
        fields = line.split("|")
        match = _ID.fullmatch(fields[0])
        if match is not None and len(fields) >= 4:
            state = fields[1].split()[0] if fields[1] else ""  # "CANCELLED by 1000"
            found.append(QueuedJob(match[1], match[2], state, fields[2], fields[3]))
    return found


def _queued(line: str) -> Iterable[QueuedJob]:
    fields = line.split("|", _FORMAT.count("|"))
    match = _ID.fullmatch(fields[0])
    if match is not None and len(fields) == _FORMAT.count("|") + 1:
        state, elapsed, nodes, comment, start, names, reason = fields[1:]
        start = "" if start in ("N/A", "Unknown") else start
        reason = "" if reason == "None" else reason
        yield QueuedJob(match[1], match[2], state, elapsed, nodes, comment, start, names, reason)


def _answer(*command: str) -> str | None:
    """Return the output of a command of Slurm; None if it fails or does not answer."""
    try:
        result = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if result.returncode else result.stdout
