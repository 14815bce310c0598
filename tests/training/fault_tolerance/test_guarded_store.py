"""Operations of a store whose host stops answering, and answers again."""

import threading
import time
from collections.abc import Callable

import pytest
import torch.distributed as distributed

from mmbert.training.fault_tolerance.hangs.guarded_store import GuardedStore, NoAnswerError

PATIENCE = 0.2


class SilentStore:
    """A store that answers `check` only when it is let."""

    def __init__(self) -> None:
        self.may_answer = threading.Event()

    def check(self, keys: list[str]) -> bool:
        self.may_answer.wait()
        return True

    def get(self, key: str) -> bytes:
        return key.encode()


def test_operations_reach_the_store() -> None:
    store = GuardedStore(distributed.HashStore(), patience=60)
    store.set("key", "value")
    assert store.get("key") == b"value"
    assert (store.check(["key"]), store.check(["other"])) == (True, False)
    assert (store.add("count", 1), store.add("count", 2)) == (1, 3)


@pytest.mark.parametrize(
    "operation",
    [lambda store: store.check(["key"]), lambda store: store.get("key")],
    ids=["itself", "behind it"],
)
def test_without_an_answer_every_operation_fails_in_time(
    operation: Callable[[GuardedStore], object],
) -> None:
    silent = SilentStore()
    store = GuardedStore(silent, PATIENCE)
    with pytest.raises(NoAnswerError):
        store.check(["key"])
    with pytest.raises(NoAnswerError):
        operation(store)
    silent.may_answer.set()
    answered = GuardedStore(silent, patience=60)
    assert answered.check(["key"])


def test_it_goes_on_when_the_host_answers_again() -> None:
    silent = SilentStore()
    store = GuardedStore(silent, PATIENCE)
    with pytest.raises(NoAnswerError):
        store.check(["key"])
    silent.may_answer.set()
    end = time.monotonic() + 60
    while True:
        try:
            assert store.get("key") == b"key"
            return
        except NoAnswerError:  # the thread has not run yet
            assert time.monotonic() < end


def test_errors_of_the_store_are_passed_on() -> None:
    class Closed:
        """A store whose host has exited."""

        def get(self, key: str) -> bytes:
            raise distributed.DistNetworkError("connection reset")

    with pytest.raises(distributed.DistNetworkError, match="connection reset"):
        GuardedStore(Closed(), patience=60).get("key")
