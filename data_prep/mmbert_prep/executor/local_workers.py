"""Worker groups of local processes."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from mmbert.errors import UserError
from mmbert_prep.executor.workers import SingleProcess, WorkerDiedError


class _LocalWorkerGroup:
    def __init__(self, rank: int, size: int, barrier: Any) -> None:
        self.rank, self.size = rank, size
        self._barrier = barrier
        self.failure: BaseException | None = None

    def barrier(self) -> None:
        try:
            self._barrier.wait()
        except threading.BrokenBarrierError:
            for _ in range(100):  # the watcher may still be receiving the reason
                self.check()
                time.sleep(0.02)
            raise WorkerDiedError("a worker process failed") from None

    def check(self) -> None:
        if self.failure is not None:
            raise self.failure


def run_local(program: Callable[..., Any], size: int, *arguments: Any) -> Any:
    """Run `program(group, *arguments)` in this process (rank 0) and `size` - 1 new processes.

    Return the result of rank 0. The first failure of a worker stops all others and is raised.
    `program` and the arguments must be picklable.
    """
    if size == 1:
        return program(SingleProcess(), *arguments)
    # Not fork, which copies locks held by threads of Arrow and SentencePiece.
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

        # Other exceptions may not be picklable, so send the traceback as text.
        if not isinstance(error, UserError):
            error = RuntimeError("".join(traceback.format_exception(error)))
        sender.send(error)
        barrier.abort()


def _exit_with_parent() -> None:
    """Exit this worker when its parent process ends, even during a barrier."""
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
                failure = WorkerDiedError("a worker process was killed (out of memory?)")
            # Later failures only report the barrier that the first one broke.
            if failure is not None and group.failure is None:
                group.failure = failure
                barrier.abort()
