"""A pytest plugin that writes down each test's outcome the moment it is known.

So a run that is cut short counts for the operations whose tests had ended (verification.py).

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
    """The hooks of the process that hears of all tests."""

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Without workers the session knows its tests."""
        if session.items:
            _write({"collected": [item.nodeid for item in session.items]})

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: Sequence[str]) -> None:
        """With workers each of them does, and all know the same."""
        if node.gateway.id == "gw0":
            _write({"collected": list(ids)})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test has one report or three; only in the first may it be skipped."""
        if report.when == "call" or report.failed or report.skipped:
            _write({"test": report.nodeid, "outcome": report.outcome})


def pytest_configure(config: pytest.Config) -> None:
    """Not in workers: their controller hears of everything."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(OutcomeRecorder())
