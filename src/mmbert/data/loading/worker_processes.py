"""Processes that make rows ahead of their use: each owns some of the rank's streams for a phase."""

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
    """All that a worker is told: the phase's order and which rows of which streams to make."""

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
    """`count` processes that together make a data rank's rows of a phase, in order.

    Worker w owns the rank's streams w, w + count, …, so that what a row holds does not depend on
    `count`. They are started as programs of their own: no fork of a process with threads and
    devices, and nothing of the main program is imported.
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
        """Row `index`, waiting for it if need be. Raises what the worker raised."""
        worker = self._owner[index % self._streams]
        try:
            message = self._pipes[worker].recv()
        except (EOFError, OSError):  # at a message, or in the middle of one
            code = self._processes[worker].wait(_SHUTDOWN_SECONDS)
            problem = self._corpus.find_truncated_shard() if code == -signal.SIGBUS else None
            if problem is not None:  # cut short in the moment between looking at it and reading
                raise problem from None
            raise RuntimeError(f"the data worker died before row {index} (exit {code})") from None
        if isinstance(message, BaseException):
            raise message
        assert isinstance(message, Row)
        assert message.index == index, f"row {message.index} came for row {index}"
        return message

    def close(self) -> None:
        """End the processes: a closed pipe tells them, and those that do not listen are killed."""
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
        os.close(writing)  # only the worker holds it: its exit is then seen here
        self._pipes.append(Connection(reading, writable=False))
        self._processes.append(process)
        assert process.stdin is not None
        with process.stdin as pipe:
            pickle.dump(task, pipe, protocol=pickle.HIGHEST_PROTOCOL)


def main(writing: int) -> None:
    """The worker's program: its task comes from standard input, rows go to the pipe `writing`."""
    # The training process decides when to stop; a signal to the whole group must not leave it
    # without rows for the step it finishes.
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
    """Send what is ready; when nobody listens any more, the process ends."""
    try:
        while (message := ready.get()) is not None:
            pipe.send(message)
    except OSError:
        os._exit(0)
