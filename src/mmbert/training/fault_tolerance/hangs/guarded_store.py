"""Store whose operations end in time, even if its host can no longer be reached.

torch's TCPStore waits for an answer without limit, and when a link is cut, no error arrives.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import timedelta
from typing import Any

import torch.distributed as distributed


class NoAnswerError(distributed.DistNetworkError):
    """The host of the store has not answered in time."""


class GuardedStore:
    """The operations of a `torch.distributed.Store` that the watchdogs use, with a time limit.

    They run in one daemon thread. After an operation that got no answer, later ones fail too, until
    its answer comes.
    """

    def __init__(self, store: Any, patience: float) -> None:
        """Guard `store`: operations raise NoAnswerError after `patience` seconds."""
        self._store, self._patience = store, patience
        self._waiting: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = (
            queue.SimpleQueue()
        )
        threading.Thread(target=self._serve, name="store", daemon=True).start()

    def set(self, key: str, value: str) -> None:
        """Set `key`; returns before the host has it."""
        self._run(lambda: self._store.set(key, value))

    def get(self, key: str) -> bytes:
        """Return the value of an existing key."""
        value: bytes = self._run(lambda: self._store.get(key))
        return value

    def check(self, keys: Sequence[str]) -> bool:
        """Return whether all keys exist."""
        return bool(self._run(lambda: self._store.check(list(keys))))

    def add(self, key: str, amount: int) -> int:
        """Add to a counter and return its value."""
        return int(self._run(lambda: self._store.add(key, amount)))

    def _run(self, operation: Callable[[], Any]) -> Any:
        future: Future[Any] = Future()
        self._waiting.put((future, operation))
        try:
            return future.result(self._patience)
        except TimeoutError as error:
            future.cancel()  # if it has not begun
            raise NoAnswerError(f"no answer for {self._patience:.1f} s") from error

    def _serve(self) -> None:
        while True:
            future, operation = self._waiting.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(operation())
            except Exception as error:
                future.set_exception(error)


def check_interval(timeout_seconds: float) -> float:
    """Return the seconds between heartbeats, for a hang timeout; also the patience of the store."""
    return min(5.0, timeout_seconds / 16)


def open_store(address: str, rank: int, world_size: int, broadcast: Any, *, patience: float) -> Any:
    """Open the watchdogs' own store, hosted by rank 0; None for one process.

    The default group's store has a single connection, which blocks while a rank waits in it.

    Args:
        broadcast: `HostGroup.broadcast`, which returns rank 0's value on every rank.
        patience: seconds to wait for an answer.
    """
    if world_size == 1:
        return None
    timeout = timedelta(seconds=20)
    if rank == 0:
        store = distributed.TCPStore(address, 0, None, True, timeout, wait_for_workers=False)
        broadcast(store.port)
    else:
        port = broadcast(None)
        store = distributed.TCPStore(address, port, None, False, timeout, wait_for_workers=False)
    return GuardedStore(store, patience)
