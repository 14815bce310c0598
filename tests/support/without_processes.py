"""Pytest plugin that skips a test as soon as it starts a process (`make test-fast`).

Most of the suite's time goes into starting ranks and launchers. Tests are not marked: any test that
starts a process is skipped, so there is no list to keep up to date.

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
    """Pytest hooks that detect process starts through Python's audit events."""

    def __init__(self) -> None:
        self._in_a_test = False
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        # Only in pytest's own thread does an exception end the test.
        if event in STARTS and self._in_a_test and threading.current_thread() is self._thread:
            pytest.skip(REASON)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Generator[None, object, object]:
        def start(process: BaseProcess) -> None:
            pytest.skip(REASON)

        self._in_a_test, self._thread = True, threading.current_thread()
        try:
            # Starting or asking a process server does not raise an audit event.
            with mock.patch.object(BaseProcess, "start", start):
                return (yield)
        finally:
            self._in_a_test = False


def pytest_configure(config: pytest.Config) -> None:
    """Register the plugin in every worker; the controller runs no tests."""
    config.pluginmanager.register(WithoutProcesses())
