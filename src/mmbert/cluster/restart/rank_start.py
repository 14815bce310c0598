"""One start of all ranks of a job with `srun`: its command, its end, and what is known about it."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mmbert.cluster.restart.failure_cause import Outcome, is_certain
from mmbert.cluster.restart.placement import Placement
from mmbert.cluster.restart.slurm_job import Allocation, SlurmJob
from mmbert.errors import EXIT_SAVED_START_AGAIN
from mmbert.journals.rank_failures import FOLDER_VARIABLE, read_failures
from mmbert.launching import exit_status
from mmbert.ownership.identity import START_VARIABLE
from mmbert.ownership.owner_file import OWNER_NAME, read_owner_file

POLL_SECONDS = 0.5


@dataclass
class Stop:
    """A request to save and leave, from a signal; `srun` passes it on to the ranks."""

    asked: str | None = None
    """Name of the signal."""
    process: "subprocess.Popen[bytes] | None" = None

    def handle(self, number: int, frame: object) -> None:
        """Handle USR1 or TERM: `srun` forwards USR1 to every rank."""
        self.asked = signal.Signals(number).name.removeprefix("SIG")
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGUSR1)


@dataclass(frozen=True)
class RankStart:
    """Start number `number` of the ranks in this execution of the job."""

    job: SlurmJob
    allocation: Allocation
    placement: Placement
    run_folder: Path
    words: tuple[str, ...]
    """Options of the training program."""
    number: int
    srun_words: tuple[str, ...] = ()
    """Further words of srun, for a container."""
    python: tuple[str, ...] = (sys.executable,)
    """Words that start Python in a task."""

    @property
    def port(self) -> int:
        """Port of rank 0, another in every start, because the previous one may still be closing."""
        return 20000 + (13 * int(self.job.id) + self.job.restart + self.number) % 10000

    def command(self) -> list[str]:
        """Return the command that starts the ranks.

        Tasks identify themselves by SLURM_PROCID. There is no launcher between Slurm and the ranks:
        a signal would kill it and orphan them. Not --kill-on-bad-exit=1: ranks that have saved exit
        one after another, and the first would have the others killed. --wait ends ranks that hang
        after another failed. -P: modules in the working folder must not shadow installed ones.
        """
        placement, allocation, words = self.placement, self.allocation, list(self.words)
        if self.number or self.job.restart:
            # The first start of the job took the folder; a later one must not take it from others.
            words = [word for word in words if word != "--take-over"]
        nodes = [f"--nodes={len(placement.hosts)}", f"--ntasks={placement.tasks}"]
        where = []
        if allocation.gpus_per_node:
            where.append(f"--gpus-per-node={allocation.gpus_per_node}")
        if len(placement.hosts) < len(allocation.hosts):
            where.append(f"--nodelist={','.join(placement.hosts)}")
        if not self._is_uneven:  # srun ignores it with a warning otherwise
            nodes.append(f"--ntasks-per-node={placement.tasks_per_node}")
        return [
            *("srun", *nodes),
            *(f"--cpus-per-task={allocation.cpus_per_task}", "--mpi=none", "--label"),
            *("--kill-on-bad-exit=0", "--wait=60", *where, *self.srun_words),
            *(*self.python, "-P", "-m", "mmbert.pretrain", *words),
        ]

    def run(self, stop: Stop, on_owned: Callable[[], None], on_stop: Callable[[], None]) -> Outcome:
        """Start the ranks, wait for them, and find out why they ended.

        Args:
            on_owned: called once when the ranks own the run folder.
            on_stop: called once after a request to stop.
        """
        before = self._hang_reports()
        status = self._wait(stop, on_owned, on_stop)
        new = [path for path, file in self._hang_reports().items() if file != before.get(path)]
        hang_report = _first_line(new[0]) if new else None
        failures = read_failures(self._failures)
        shutil.rmtree(self._failures, ignore_errors=True)
        with suppress(OSError):
            self._failures.parent.rmdir()
        stopped = stop.asked is not None
        dead: dict[str, str] = {}
        no_launch = False
        if not is_certain(status, failures, asked_to_stop=stopped):
            dead, no_launch = self._look_at_nodes()
        return Outcome(
            status=status,
            placement=self.placement,
            failures=failures,
            hang_report=hang_report,
            dead_nodes=tuple(dead.items()),
            no_launch=no_launch,
            asked_to_stop=stopped,
        )

    def describe(self) -> list[str]:
        """Return lines for the log."""
        at, allocation = self.placement, self.allocation
        names = ", ".join(at.hosts[:8]) + (", …" if len(at.hosts) > 8 else "")
        per_node = f"{'up to ' if self._is_uneven else ''}{at.tasks_per_node} task(s)"
        lines = [
            f"job {self.job.id}, execution {self.job.restart + 1}, start {self.number + 1}, on "
            f"{names}: {len(at.hosts)} node(s) × {per_node} = {at.tasks} rank(s), "
            f"{allocation.gpus_per_node} GPU(s) and {allocation.cpus_per_node} CPU(s) per node"
        ]
        if at.idle:
            lines.append(
                f"WARNING: the recipe (batch.quantum, parallel.tensor) can use {at.tasks} of "
                f"{allocation.tasks} tasks; idle: {at.idle}"
            )
        version = ".".join(map(str, sys.version_info[:3]))
        limit = self.job.field("EndTime")
        lines.append(
            f"rank 0 listens at {at.hosts[0]}:{self.port}; Python {version}; time limit {limit}"
        )
        lines.append(f"running: {shlex.join(self.command())}")
        return lines

    def _hang_reports(self) -> dict[Path, tuple[int, int] | None]:
        """Return the watchdogs' reports; hosts that cannot reach rank 0 write one each."""
        found = sorted((self.run_folder / "stacks").glob("hang*.txt"), reverse=True)
        return {path: _file_identity(path) for path in found}

    @property
    def _is_uneven(self) -> bool:
        return self.placement.tasks != len(self.placement.hosts) * self.placement.tasks_per_node

    @property
    def _failures(self) -> Path:
        """Folder for what the ranks of this start report."""
        name = f"{self.job.id}-{self.job.restart}-{self.number}"
        return (self.run_folder / "failures" / name).absolute()

    def _environment(self) -> Mapping[str, str]:
        threads = os.environ.get("OMP_NUM_THREADS") or str(self.allocation.cpus_per_task)
        return {
            **os.environ,
            "MASTER_ADDR": self.placement.hosts[0],
            "MASTER_PORT": str(self.port),
            "OMP_NUM_THREADS": threads,
            "PYTHONUNBUFFERED": "1",
            START_VARIABLE: str(self.number),
            FOLDER_VARIABLE: str(self._failures),
        }

    def _wait(self, stop: Stop, on_owned: Callable[[], None], on_stop: Callable[[], None]) -> int:
        if stop.asked is not None:
            return EXIT_SAVED_START_AGAIN
        process = subprocess.Popen(
            self.command(), env=self._environment(), stdin=subprocess.DEVNULL
        )
        stop.process = process
        if stop.asked is not None:  # before the assignment
            process.send_signal(signal.SIGUSR1)
        owned = stopped = False
        while (returned := process.poll()) is None:
            if not owned and self._owns_run():
                owned = True
                on_owned()
            if not stopped and stop.asked is not None:
                stopped = True
                on_stop()
            time.sleep(POLL_SECONDS)
        stop.process = None
        return exit_status(returned)

    def _owns_run(self) -> bool:
        """Return whether rank 0 of this start owns the run folder."""
        held = read_owner_file(self.run_folder / OWNER_NAME)
        owner = held.identity if held else None
        return owner is not None and (
            (owner.slurm_job, owner.slurm_restart, owner.start)
            == (self.job.id, self.job.restart, self.number)
        )

    def _look_at_nodes(self) -> tuple[dict[str, str], bool]:
        """Return lost hosts, with how that is known, and whether no host starts a task.

        Slurm says that a host is lost, or starts no task on it.
        """
        hosts = self.placement.hosts
        said = self.job.unusable(hosts)
        if said:
            return {host: f"Slurm says {state}" for host, state in said.items()}, False
        if self.job.taken_away() is not None:
            return {}, False
        silent = self.job.silent(hosts, self.allocation.gpus_per_node)
        if len(silent) == len(hosts):
            return {}, True
        return dict.fromkeys(silent, "no task can be started on it"), False


def _file_identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _first_line(path: Path) -> str:
    with suppress(OSError):
        return (path.read_text(encoding="utf-8", errors="replace").splitlines() or [""])[0]
    return ""
