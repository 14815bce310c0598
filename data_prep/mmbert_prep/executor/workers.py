"""The workers of a run, all doing the same program: MPI ranks, Slurm's tasks, or local processes.

Workers share nothing but the output folder's file system: work is claimed by creating a file, so no
process hands out work and no data passes between processes.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mmbert.errors import UserError
from mmbert.files import make_folder

# How OpenMPI's mpirun and MPICH's mpiexec say how many processes they started.
_MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS")


class WorkerGroup(Protocol):
    """What the pipeline needs of its workers. Rank 0 leads: it plans, reports and works too."""

    rank: int
    size: int

    def barrier(self) -> None:
        """Wait for all; raises if another worker failed."""

    def check(self) -> None:
        """Raise if another worker failed; called between documents, so it must be cheap."""


class SingleProcess:
    """One process."""

    rank = 0
    size = 1

    def barrier(self) -> None:
        """Nobody to wait for."""

    def check(self) -> None:
        """Nobody can have failed."""


class MpiWorkerGroup:
    """The ranks of an MPI communicator (mpirun, srun with MPI)."""

    def __init__(self, communicator: Any) -> None:
        self._communicator = communicator
        self.rank = communicator.Get_rank()
        self.size = communicator.Get_size()

    def barrier(self) -> None:
        """Wait for all ranks, asleep (MPI's own barrier would keep a core busy)."""
        request = self._communicator.Ibarrier()
        while not request.Test():
            time.sleep(0.02)

    def check(self) -> None:
        """A failing rank aborts all others, so there is nothing to look at."""

    def abort(self, status: int) -> None:
        """End all ranks with this exit status."""
        self._communicator.Abort(status)


class SlurmWorkerGroup:
    """The tasks of a Slurm step: they know their numbers, and meet in files of the output folder.

    Needs no MPI. Every task says in `folder` which barriers it has reached; rank 0, when it has
    seen all of them, lets them pass.
    """

    _POLL_SECONDS = 0.2

    def __init__(self, rank: int, size: int, folder: Path) -> None:
        self.rank, self.size = rank, size
        self._folder, self._barriers = folder, 0
        make_folder(folder)

    def barrier(self) -> None:
        """Wait for all tasks, asleep; WorkerDiedError if one has said that it failed."""
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
        """The work is done: rank 0 removes the folder when nobody looks at it any more."""
        if self.rank:
            (self._folder / f"left-{self.rank}").touch()
            return
        while sum(name.startswith("left-") for name in self._names()) < self.size - 1:
            time.sleep(self._POLL_SECONDS)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _names(self) -> list[str]:
        # A listing, because network file systems remember longer that a single file was not there.
        names = os.listdir(self._folder)
        for name in names:
            if name.startswith("failed-"):
                raise WorkerDiedError(f"task {name.removeprefix('failed-')} of this job failed")
        return names

    def check(self) -> None:
        """Looked at in barriers; `srun --kill-on-bad-exit=1` is quicker."""

    def abort(self) -> None:
        """Tell the others that this task fails."""
        (self._folder / f"failed-{self.rank}").touch()


def worker_group_from_env(output: Path) -> MpiWorkerGroup | SlurmWorkerGroup | None:
    """The team of the processes that a launcher started; None when this process is alone.

    Raises UserError where the launcher and MPI do not agree.
    """
    return slurm_worker_group(output) or mpi_worker_group()


def run_launched(
    program: Callable[..., Any], group: MpiWorkerGroup | SlurmWorkerGroup, *arguments: Any
) -> Any:
    """Run `program(team, *arguments)` in this process, one of the team; others hear of failure."""
    if isinstance(group, MpiWorkerGroup):
        return program(group, *arguments)  # MPI's ranks are aborted when this one leaves
    try:
        result = program(group, *arguments)
        group.close()
    except BaseException:
        group.abort()
        raise
    return result


def slurm_worker_group(output: Path) -> SlurmWorkerGroup | None:
    """The team of this Slurm step when it has several tasks and no MPI started them, else None."""
    variables = os.environ
    if any(name in variables for name in _MPI_SIZES) or launched_process_count() == 1:
        return None
    # Apart for each start of each job: what an earlier one left says nothing about this one.
    step = ".".join(
        variables.get(name, "0")
        for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    )
    folder = output / ".preprocess" / f"step-{step}"
    return SlurmWorkerGroup(int(variables["SLURM_PROCID"]), launched_process_count(), folder)


def mpi_worker_group() -> MpiWorkerGroup | None:
    """The MPI team when a launcher started several processes, else None.

    Raises UserError where the launcher and MPI do not agree: `srun` without the right `--mpi`
    silently starts N separate runs of one process each.
    """
    expected = launched_process_count()
    if expected <= 1:
        return None
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"started as {expected} processes, but mpi4py cannot be used: {error}",
            remedy="pip install 'mmbert-train[mpi]', or start one process and give --workers",
        ) from error
    size = MPI.COMM_WORLD.Get_size()
    if size != expected:
        raise UserError(
            f"the launcher started {expected} processes, but MPI sees {size}: they do not know of "
            "each other",
            remedy="under srun choose the MPI flavour (srun --mpi=pmix or --mpi=pmi2), use mpirun, "
            "or start one process (srun -n 1) and give --workers",
        )
    return MpiWorkerGroup(MPI.COMM_WORLD)


# Slurm numbers the steps that are no srun (the batch script, an allocation's shell) from the top.
_FIRST_SPECIAL_STEP = 0xFFFFFFF0


def launched_process_count() -> int:
    """How many processes a launcher started together with this one, as the environment says."""
    # Of Slurm, a step; not the batch script itself.
    for name in _MPI_SIZES:
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    step = os.environ.get("SLURM_STEP_ID", "")
    if "SLURM_PROCID" in os.environ and step.isdigit() and int(step) < _FIRST_SPECIAL_STEP:
        return int(os.environ.get("SLURM_STEP_NUM_TASKS") or os.environ.get("SLURM_NTASKS") or 1)
    return 1


class WorkerDiedError(Exception):
    """A local worker process ended without saying why (killed, or out of memory)."""


class _LocalWorkerGroup:
    def __init__(self, rank: int, size: int, barrier: Any) -> None:
        self.rank, self.size = rank, size
        self._barrier = barrier
        self.failure: BaseException | None = None

    def barrier(self) -> None:
        try:
            self._barrier.wait()
        except threading.BrokenBarrierError:
            for _ in range(100):  # the watcher may still be reading why
                self.check()
                time.sleep(0.02)
            raise WorkerDiedError("a worker process failed") from None

    def check(self) -> None:
        if self.failure is not None:
            raise self.failure


def run_local(program: Callable[..., Any], size: int, *arguments: Any) -> Any:
    """Run `program(team, *arguments)` in this process (rank 0) and size − 1 new ones.

    Returns rank 0's result; raises the first failure of any worker, after ending all others.
    `program` and the arguments must be picklable.
    """
    if size == 1:
        return program(SingleProcess(), *arguments)
    # Fresh processes: a fork would copy the locks of threads that Arrow and SentencePiece started.
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(size)
    group = _LocalWorkerGroup(0, size, barrier)
    processes, receivers = [], []
    for rank in range(1, size):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(
            target=_local_worker, args=(program, rank, size, barrier, sender, arguments)
        )
        process.daemon = True
        process.start()
        sender.close()
        processes.append(process)
        receivers.append(receiver)
    watcher = threading.Thread(target=_watch, args=(group, receivers, barrier), daemon=True)
    watcher.start()
    try:
        result = program(group, *arguments)
        for process in processes:
            process.join()
        watcher.join()
        group.check()
        return result
    except BaseException:
        barrier.abort()
        raise
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _local_worker(
    program: Callable[..., Any],
    rank: int,
    size: int,
    barrier: Any,
    sender: Connection,
    arguments: Sequence[Any],
) -> None:
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    try:
        program(_LocalWorkerGroup(rank, size, barrier), *arguments)
        sender.send(None)
    except KeyboardInterrupt:
        os._exit(130)
    except BaseException as error:
        import traceback

        # An exception that cannot be pickled must not hide itself.
        if not isinstance(error, UserError):
            error = RuntimeError("".join(traceback.format_exception(error)))
        sender.send(error)
        barrier.abort()


def _exit_with_parent() -> None:
    """End this worker when the leader is gone, even while it waits at a barrier."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _watch(group: _LocalWorkerGroup, receivers: list[Connection], barrier: Any) -> None:
    waiting = list(receivers)
    while waiting:
        for receiver in wait(waiting):
            assert isinstance(receiver, Connection)
            waiting.remove(receiver)
            try:
                failure = receiver.recv()
            except EOFError:
                failure = WorkerDiedError(
                    "a worker process was killed (perhaps by the system, for lack of memory)"
                )
            # A worker that only saw the broken barrier says less than the one that broke it.
            if failure is not None and group.failure is None:
                group.failure = failure
                barrier.abort()


def claim_tasks(
    group: WorkerGroup, folder: Path, tasks: Sequence[str], weights: Sequence[int]
) -> Iterator[int]:
    """Indices of tasks that this worker is to do, biggest first; every task goes to one worker.

    A worker begins with its share, which is a run of neighbours (of the same languages, often), and
    then takes what others have not begun. `folder` must be empty when the first worker begins.
    """
    order = sorted(range(len(tasks)), key=lambda index: (-weights[index], index))
    sizes = np.maximum(np.array(weights, dtype=np.float64), 1)
    middles = np.cumsum(sizes) - sizes / 2
    shares = (middles * group.size / sizes.sum()).astype(np.int64) if tasks else middles
    for index in (index for index in order if shares[index] == group.rank):
        if _claim(folder, tasks[index]):
            yield index
            group.check()
    taken = set(os.listdir(folder))
    for index in reversed(order):  # others work from the big ones down
        name = tasks[index]
        if name in taken:
            continue
        if _claim(folder, name):
            yield index
            group.check()
        # Look at what others took meanwhile, rather than trying every task of a long list.
        taken = set(os.listdir(folder))


def _claim(folder: Path, name: str) -> bool:
    try:
        os.close(os.open(folder / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    return True


def make_empty_folder(folder: Path) -> None:
    """Make `folder` exist and be empty (of files)."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            (folder / name).unlink()
