"""Trial of a fault: its tests must pass in a copy of the tree and fail in one with the fault."""

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from xml.etree import ElementTree

from tests.mutations.copies import apply, copy_of_the_tree, environment_in
from tests.mutations.faults import Fault
from tests.support.environment import ROOT
from tests.support.sessions import end_session

# Above pytest's own timeout per test (pyproject.toml) and far above the duration of these tests.
LIMIT_SECONDS = 900.0
PYTEST = (
    *("-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"),
    *("-p", "tests.mutations.without_shrinking"),
)


class Verdict(StrEnum):
    """Outcome of a trial."""

    SEEN = "seen"
    UNSEEN = "unseen"
    BROKEN = "broken"
    """Inconclusive: the patch does not apply, or the tests fail without it."""


@dataclass(frozen=True)
class Trial:
    """Verdict on a fault."""

    fault: str
    verdict: Verdict
    seconds: float
    remark: str
    """The test that detected it, or the reason why none did."""


@dataclass(frozen=True)
class Run:
    """Result of one pytest run."""

    passed: int
    failed: tuple[str, ...]
    """Ids of the tests that failed, themselves or in a fixture."""
    obstacle: str = ""
    """Reason for an inconclusive run: no tests, an import error, a timeout."""


def run_tests(
    fault: Fault, *, with_the_fault: bool, root: Path = ROOT, limit: float = LIMIT_SECONDS
) -> Run:
    """Run the fault's tests in a new copy of the tree, up to the first failure."""
    with copy_of_the_tree(root) as copy, tempfile.TemporaryDirectory() as folder:
        if with_the_fault and (obstacle := apply(fault.path, copy)):
            return Run(0, (), obstacle)
        report = Path(folder) / "junit.xml"
        process = subprocess.Popen(
            [sys.executable, *PYTEST, f"--junitxml={report}", *fault.tests],
            cwd=copy,
            env=environment_in(copy, dict(fault.environment)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            printed, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            return Run(0, (), f"timed out after {limit:.0f} s")
        finally:
            end_session(process.pid)
        return read_run(process.returncode, report, printed)


def read_run(status: int, report: Path, printed: str) -> Run:
    """Build a `Run` from pytest's exit status, JUnit file and output."""
    lines = printed.strip().splitlines() or [""]
    last = next((line for line in lines if line.startswith("ERROR")), lines[-1])
    if status not in (0, 1):  # nothing collected, not importable, killed
        return Run(0, (), f"pytest ended with status {status}: {last}")
    passed, failed = 0, []
    for case in ElementTree.parse(report).iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}")
        elif case.find("skipped") is None:
            passed += 1
    if status == 0 and not passed:
        return Run(0, (), f"every test was skipped: {last}")
    return Run(passed, tuple(failed))


def soundness(run: Run) -> str:
    """Return what is wrong with tests that ran without the fault, "" if they passed."""
    if run.obstacle:
        return f"without the fault: {run.obstacle}"
    return f"fails without the fault: {', '.join(run.failed)}" if run.failed else ""


def try_fault(fault: Fault, root: Path = ROOT) -> Trial:
    """Try a fault whose tests are known to pass without it."""
    begun = time.monotonic()
    run = run_tests(fault, with_the_fault=True, root=root)
    if run.obstacle:
        verdict, remark = Verdict.BROKEN, run.obstacle
    elif run.failed:
        verdict, remark = Verdict.SEEN, run.failed[0]
    else:
        verdict, remark = Verdict.UNSEEN, f"{run.passed} tests passed"
    return Trial(fault.name, verdict, time.monotonic() - begun, remark)
