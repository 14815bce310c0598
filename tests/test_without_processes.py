"""`make test-fast` skips tests that start a process, and no others."""

import subprocess
import sys
from pathlib import Path

from tests.support.environment import ROOT

TESTS = """
import multiprocessing, os, subprocess, threading
import pytest


def nothing() -> None: ...


def test_plain() -> None:
    thread = threading.Thread(target=nothing)
    thread.start()
    thread.join()


def test_program() -> None:
    try:
        subprocess.run(["true"])
    except Exception:
        pass
    assert False


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_python(method: str) -> None:
    multiprocessing.get_context(method).Process(target=nothing).start()
    assert False


def test_fork() -> None:
    if os.fork() == 0:
        os._exit(0)
    assert False


@pytest.fixture
def made() -> None:
    os.system("true")


def test_in_a_fixture(made: None) -> None:
    assert False
"""


def test_what_starts_a_process_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "test_starts.py").write_text(TESTS)
    options = ("-p", "tests.support.without_processes", "-n", "1", "-q", f"--rootdir={tmp_path}")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 passed, 6 skipped" in run.stdout, run.stdout + run.stderr
