"""Worker groups: MPI ranks, Slurm tasks or a single process. All workers run the same program."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from mmbert.command_line.environment import integer
from mmbert.errors import LauncherError, PackageError
from mmbert.files import make_folder

# Number of processes started by mpirun (OpenMPI) or mpiexec (MPICH).
_MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS")


class WorkerGroup(Protocol):
    """Interface of a worker group, from the view of one worker. Rank 0 also plans and reports."""

    rank: int
    size: int

    def barrier(self) -> None:
        """Wait for all workers. Raises if another worker failed."""

    def check(self) -> None:
        """Raise if another worker failed. Must be cheap: called after every batch and task."""


class SingleProcess:
    """Worker group of a single process."""

    rank = 0
    size = 1

    def barrier(self) -> None:
        """Do nothing."""

    def check(self) -> None:
        """Do nothing."""


class MpiWorkerGroup:
    """Ranks of an MPI communicator (mpirun, srun with MPI)."""

    def __init__(self, communicator: Any) -> None:
        self._communicator = communicator
        self.rank = communicator.Get_rank()
        self.size = communicator.Get_size()

    def barrier(self) -> None:
        """Wait for all ranks by polling with sleep; a blocking MPI barrier occupies a core."""
        request = self._communicator.Ibarrier()
        while not request.Test():
            time.sleep(0.02)

    def check(self) -> None:
        """Do nothing: a failing rank aborts all others."""

    def abort(self, status: int) -> None:
        """Abort all ranks with this exit status."""
        self._communicator.Abort(status)


class SlurmWorkerGroup:
    """Tasks of a Slurm step without MPI, synchronized by files in the output folder.

    Each task creates a file in `folder` when it reaches a barrier; rank 0 opens the barrier once
    the files of all tasks exist.
    """

    _POLL_SECONDS = 0.2

    def __init__(self, rank: int, size: int, folder: Path) -> None:
        self.rank, self.size = rank, size
        self._folder, self._barriers = folder, 0
        make_folder(folder)

    def barrier(self) -> None:
        """Wait for all tasks by polling. Raises WorkerDiedError if a task reported a failure."""
        self._barriers += 1
        passed = f"{self._barriers}-passed"
        (self._folder / f"{self._barriers}-reached-{self.rank}").touch()
        if self.rank == 0:
            reached = f"{self._barriers}-reached-"
            while sum(name.startswith(reached) for name in self._names()) < self.size:
                time.sleep(self._POLL_SECONDS)
            (self._folder / passed).touch()
        else:
            while passed not in self._names():
                time.sleep(self._POLL_SECONDS)

    def close(self) -> None:
        """Leave the group; rank 0 removes the folder once all others have left."""
        if self.rank:
            (self._folder / f"left-{self.rank}").touch()
            return
        while sum(name.startswith("left-") for name in self._names()) < self.size - 1:
            time.sleep(self._POLL_SECONDS)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _names(self) -> list[str]:
        # Network file systems cache the absence of a single file longer than a listing.
        names = os.listdir(self._folder)
        for name in names:
            if name.startswith("failed-"):
                raise WorkerDiedError(f"task {name.removeprefix('failed-')} of this job failed")
        return names

    def check(self) -> None:
        """Do nothing: `barrier` checks, and `srun --kill-on-bad-exit=1` stops tasks earlier."""

    def abort(self) -> None:
        """Report the failure of this task to the others."""
        (self._folder / f"failed-{self.rank}").touch()


def worker_group_from_env(output: Path) -> MpiWorkerGroup | SlurmWorkerGroup | None:
    """Return the group of the processes started by a launcher; None for a single process.

    Raises UserError if the processes need MPI but cannot use it.
    """
    return slurm_worker_group(output) or mpi_worker_group()


def run_launched(
    program: Callable[..., Any], group: MpiWorkerGroup | SlurmWorkerGroup, *arguments: Any
) -> Any:
    """Run `program(group, *arguments)` as one worker of a group; report failures to the others."""
    if isinstance(group, MpiWorkerGroup):
        return program(group, *arguments)  # main() aborts the other MPI ranks on failure
    try:
        result = program(group, *arguments)
        group.close()
    except BaseException:
        group.abort()
        raise
    return result


def slurm_worker_group(output: Path) -> SlurmWorkerGroup | None:
    """Return the group of this Slurm step; None for a single task or an MPI launch."""
    variables = os.environ
    if any(variables.get(name, "").strip() for name in _MPI_SIZES) or launched_process_count() == 1:
        return None
    # One folder per start of a job, because files of an earlier start would open its barriers.
    step = ".".join(
        variables.get(name, "0")
        for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    )
    folder = output / ".preprocess" / f"step-{step}"
    count = launched_process_count()
    rank = integer(variables, "SLURM_PROCID", maximum=count - 1)
    return SlurmWorkerGroup(rank, count, folder)


def mpi_worker_group() -> MpiWorkerGroup | None:
    """Return the MPI group if a launcher started several processes, else None.

    Raises UserError without mpi4py, or if MPI and the launcher differ in size: `srun` without the
    right `--mpi` silently starts N separate runs of one process each.
    """
    expected = launched_process_count()
    if expected <= 1:
        return None
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise PackageError(
            f"started as {expected} processes, but mpi4py cannot be used: {error}",
            remedy="pip install 'mmbert-train[mpi]', or start one process with --workers",
        ) from error
    size = MPI.COMM_WORLD.Get_size()
    if size != expected:
        raise LauncherError(
            f"the launcher started {expected} processes, but MPI sees {size}",
            remedy="under srun choose the MPI flavor (srun --mpi=pmix or --mpi=pmi2), use mpirun, "
            "or start one process (srun -n 1) with --workers",
        )
    return MpiWorkerGroup(MPI.COMM_WORLD)


# Step ids from this value on are special: batch script, interactive shell of an allocation.
_FIRST_SPECIAL_STEP = 0xFFFFFFF0


def launched_process_count() -> int:
    """Return the number of launched processes, from environment variables.

    Under Slurm, the number of tasks of an srun step, or 1 in the batch script.
    """
    for name in _MPI_SIZES:
        if os.environ.get(name, "").strip():
            return integer(os.environ, name, minimum=1)
    step = os.environ.get("SLURM_STEP_ID", "")
    of_a_step = step.isascii() and step.isdigit() and int(step) < _FIRST_SPECIAL_STEP
    if os.environ.get("SLURM_PROCID") and of_a_step:
        tasks = integer(os.environ, "SLURM_NTASKS", 1, minimum=1)
        return integer(os.environ, "SLURM_STEP_NUM_TASKS", tasks, minimum=1)
    return 1


class WorkerDiedError(Exception):
    """Failure of another worker without its exception: a killed process or a failed Slurm task."""
