"""Worker processes that build rows ahead; each owns some of a rank's streams for a phase."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection

from mmbert.data.loading.data_state import DataCursor
from mmbert.data.loading.masking import Masker
from mmbert.data.loading.row_source import RowSource, rows_of_rank
from mmbert.data.loading.rows import Row
from mmbert.recipe import Recipe
from mmbert.schedule import PhasePlan, TrainingPlan

ROWS_AHEAD = 8
_SHUTDOWN_SECONDS = 5.0


@dataclass(frozen=True)
class _Task:
    """Input of a worker: the data cursor, and the rows and streams to build."""

    cursor: DataCursor
    recipe: Recipe
    plan: TrainingPlan
    phase: PhasePlan
    masker: Masker
    streams: list[int]
    first_step: int
    rank: int
    ranks: int


class WorkerPool:
    """`count` processes that together build a data rank's rows of a phase in order.

    Worker w owns the rank's streams w, w + count, …, so that rows do not depend on `count`. Workers
    are started as separate programs: this avoids forking a process with threads and devices, and
    importing the main program.
    """

    def __init__(
        self,
        cursor: DataCursor,
        recipe: Recipe,
        plan: TrainingPlan,
        masker: Masker,
        *,
        first_step: int,
        rank: int,
        ranks: int,
        count: int,
    ) -> None:
        streams = range(rank, cursor.sampler.streams, ranks)
        count = min(count, len(streams))
        self._owner = {stream: place % count for place, stream in enumerate(streams)}
        self._streams = cursor.sampler.streams
        self._corpus = cursor.locator.corpus
        self._pipes: list[Connection] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        phase = plan.phases[cursor.sampler.index]
        for worker in range(count):
            own = list(streams)[worker::count]
            self._start(_Task(cursor, recipe, plan, phase, masker, own, first_step, rank, ranks))

    def row(self, index: int) -> Row:
        """Return row `index`, waiting if necessary. Re-raises the worker's exception."""
        worker = self._owner[index % self._streams]
        try:
            message = self._pipes[worker].recv()
        except (EOFError, OSError):  # between messages, or within one
            code = self._processes[worker].wait(_SHUTDOWN_SECONDS)
            problem = self._corpus.find_truncated_shard() if code == -signal.SIGBUS else None
            if problem is not None:  # truncated between the check and the read
                raise problem from None
            raise RuntimeError(f"the data worker died before row {index} (exit {code})") from None
        if isinstance(message, BaseException):
            raise message
        assert isinstance(message, Row)
        assert message.index == index, f"row {message.index} came for row {index}"
        return message

    def close(self) -> None:
        """Stop the processes by closing their pipes; those that do not exit are killed."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            try:
                process.wait(_SHUTDOWN_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._pipes, self._processes = [], []

    def _start(self, task: _Task) -> None:
        reading, writing = os.pipe()
        process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import main; main({writing})"],
            stdin=subprocess.PIPE,
            pass_fds=(writing,),
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        os.close(writing)  # only the worker holds it now, so that its exit is noticed here
        self._pipes.append(Connection(reading, writable=False))
        self._processes.append(process)
        assert process.stdin is not None
        with process.stdin as pipe:
            pickle.dump(task, pipe, protocol=pickle.HIGHEST_PROTOCOL)


def main(writing: int) -> None:
    """Run a worker: read its task from standard input, write rows to the pipe `writing`."""
    # Ignore signals to the process group: the training process stops the workers itself, after
    # the step in progress, which needs their rows.
    watched = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
    for number in watched:
        signal.signal(number, signal.SIG_IGN)
    task: _Task = pickle.load(sys.stdin.buffer)
    ready: queue.Queue[Row | BaseException | None] = queue.Queue(ROWS_AHEAD)
    pipe = Connection(writing, readable=False)
    sender = threading.Thread(target=_send, args=(pipe, ready), daemon=True)
    sender.start()
    try:
        source = RowSource(task.cursor, task.recipe, task.masker, task.streams)
        own, streams = set(task.streams), task.cursor.sampler.streams
        for _, rows in rows_of_rank(task.plan, task.phase, task.first_step, task.rank, task.ranks):
            for index in rows:
                if index % streams in own:
                    ready.put(source.row(index))
    except Exception as error:
        ready.put(error)
    ready.put(None)
    sender.join()


def _send(pipe: Connection, ready: queue.Queue[Row | BaseException | None]) -> None:
    """Send ready rows; exit the process once the reader is gone."""
    try:
        while (message := ready.get()) is not None:
            pipe.send(message)
    except OSError:
        os._exit(0)
