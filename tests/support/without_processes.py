"""A pytest plugin: a test that starts a process is passed over at that moment (`make test-fast`).

Starting ranks, launchers and Triton's interpreter is what takes the suite's time. Nothing says
which tests do: whatever starts a process is skipped, so no list can fall behind the tests.

    python -m pytest -p tests.support.without_processes -n 2
"""

import sys
import threading
from collections.abc import Generator
from multiprocessing.process import BaseProcess
from typing import Any
from unittest import mock

import pytest

STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"}
REASON = "starts a process"


class WithoutProcesses:
    """The hooks; python's audit events say what is being started."""

    def __init__(self) -> None:
        self._in_a_test = False
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        # Only pytest's own thread can be stopped by an exception.
        if event in STARTS and self._in_a_test and threading.current_thread() is self._thread:
            pytest.skip(REASON)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Generator[None, object, object]:
        def start(process: BaseProcess) -> None:
            pytest.skip(REASON)

        self._in_a_test, self._thread = True, threading.current_thread()
        try:
            # Without an audit event where a server of processes is started or asked.
            with mock.patch.object(BaseProcess, "start", start):
                return (yield)
        finally:
            self._in_a_test = False


def pytest_configure(config: pytest.Config) -> None:
    """In every worker; its controller runs no tests."""
    config.pluginmanager.register(WithoutProcesses())
