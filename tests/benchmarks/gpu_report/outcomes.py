"""Pytest plugin that records the outcome of each test immediately.

An interrupted run thus verifies the operations whose tests have ended (verification.py).

    MMBERT_GPU_REPORT=FOLDER python -m pytest -p tests.benchmarks.gpu_report.outcomes …
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.gpu_report.verification import FOLDER_VARIABLE, TESTS
from tests.support import json_lines


def _write(record: dict[str, Any]) -> None:
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder:
        json_lines.append(Path(folder) / TESTS, record)


class OutcomeRecorder:
    """Hooks of the process that receives all reports."""

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Record the tests of a session without workers."""
        if session.items:
            _write({"collected": [item.nodeid for item in session.items]})

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: Sequence[str]) -> None:
        """Record the tests of the first worker; all workers have the same."""
        if node.gateway.id == "gw0":
            _write({"collected": list(ids)})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record the outcome from one of a test's up to three reports; a skip is in the first."""
        if report.when == "call" or report.failed or report.skipped:
            _write({"test": report.nodeid, "outcome": report.outcome})


def pytest_configure(config: pytest.Config) -> None:
    """Register in the controller only, which receives the reports of all workers."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(OutcomeRecorder())
