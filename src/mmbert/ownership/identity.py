"""Identity of the process that owns a folder: where it runs, since when, in which Slurm job.

A process id means something only in its own namespace on its own machine, until the machine starts
again: containers count from 1, and hosts may share a name. A process can therefore be looked up
only from the same host name, boot and namespace; everything else is left to the lease.
"""

import os
import socket
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import psutil
from pydantic import BaseModel, ConfigDict, Field

START_VARIABLE = "MMBERT_START"
"""Environment variable with the number of a start within one execution of a Slurm job. Whoever sets
it makes sure that the processes of an earlier start have ended."""
_ENDED = "ended"


class Identity(BaseModel):
    """Contents of an owner file."""

    model_config = ConfigDict(frozen=True)

    token: str
    """Unique to one start, so that an owner recognizes its own file."""
    host: str
    boot: str | None = None
    """Boot of the machine; None where the system does not tell."""
    namespace: str | None = None
    """Namespace of process ids; None where the system has none."""
    pid: int = Field(gt=0)
    started: str | None = None
    """Start of the process: clock ticks since boot, or seconds where /proc is missing."""
    slurm_cluster: str | None = None
    slurm_job: str | None = None
    slurm_restart: int = 0
    start: int = 0
    """Start within this execution of the job, from the restart loop."""
    since: float
    """Unix time, for messages: hosts' clocks differ."""

    def describe(self) -> str:
        """Return process, host, time and job, for a message."""
        since = datetime.fromtimestamp(self.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        job = f", Slurm job {self.slurm_job}" if self.slurm_job else ""
        restart = f", restart {self.slurm_restart}" if self.slurm_job else ""
        return f"process {self.pid} on {self.host} (since {since}{job}{restart})"

    def is_gone(self) -> bool | None:
        """Return whether the process has ended; None if that cannot be seen from here."""
        machine = (socket.gethostname(), _boot(), _namespace())
        if (self.host, self.boot, self.namespace) != machine or self.started is None:
            return None
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):
            return True
        except PermissionError:  # another user's, which /proc may hide
            pass
        started = _start_of(self.pid)
        return None if started is None else started != self.started

    def is_requeued_as(self, later: "Identity") -> bool:
        """Return whether `later` is a later start of the same Slurm job.

        Slurm starts a job again only after it has ended the earlier start, even on a lost node; the
        restart loop starts ranks again only after `srun` has ended the earlier ones.
        """
        return (
            self.slurm_job is not None
            and (self.slurm_cluster, self.slurm_job) == (later.slurm_cluster, later.slurm_job)
            and (later.slurm_restart, later.start) > (self.slurm_restart, self.start)
        )


def this_process(environment: Mapping[str, str] | None = None) -> Identity:
    """Return a new identity of this process, in the Slurm job of `environment` (default: own)."""
    environment = os.environ if environment is None else environment
    restart = environment.get("SLURM_RESTART_COUNT", "")
    start = environment.get(START_VARIABLE, "")
    return Identity(
        token=uuid4().hex,
        host=socket.gethostname(),
        boot=_boot(),
        namespace=_namespace(),
        pid=os.getpid(),
        started=_start_of(os.getpid()),
        slurm_cluster=environment.get("SLURM_CLUSTER_NAME") or None,
        slurm_job=environment.get("SLURM_JOB_ID") or None,
        slurm_restart=int(restart) if restart.isdecimal() else 0,
        start=int(start) if start.isdecimal() else 0,
        since=time.time(),
    )


def _boot() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None


def _namespace() -> str | None:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def _start_of(pid: int) -> str | None:
    """Return the start of a process, "ended" for a zombie; None if it cannot be seen.

    Not psutil's time of day where there are clock ticks: it changes when the clock is set.
    """
    try:
        # "pid (name) state ppid …"; the name may contain spaces and parentheses.
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        words = text.rpartition(")")[2].split()
        return _ENDED if words[0] in "ZX" else words[19]
    except (OSError, IndexError):
        pass
    if Path("/proc/self/stat").exists():
        return None
    try:
        process = psutil.Process(pid)
        zombie = process.status() == psutil.STATUS_ZOMBIE
        return _ENDED if zombie else repr(process.create_time())
    except (psutil.Error, OSError):
        return None
