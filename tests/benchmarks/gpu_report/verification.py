"""Operations verified by the GPU tests of a report (recorded by outcomes.py)."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.support import json_lines
from tests.support.gpu_files import operations_of

TESTS = "tests.jsonl"
FOLDER_VARIABLE = "MMBERT_GPU_REPORT"


def unverified_reason(folder: Path | None, operations: Sequence[str]) -> str:
    """Return why a figure that depends on these operations is not verified; "" if it is.

    `folder`: the report's; None for a measurement outside of a report.
    """
    if not operations:
        return ""
    if folder is None:
        return "no tests were run with it"
    found = operation_results(folder)
    wrong = {name: found.get(name, "its tests have not run") for name in operations}
    reasons = Counter(reason for reason in wrong.values() if reason)
    if len(reasons) == 1 and len(wrong) > 1 and sum(reasons.values()) == len(wrong):
        return f"of all operations: {next(iter(reasons))}"
    return "; ".join(f"{name}: {reason}" for name, reason in wrong.items() if reason)


def operation_results(folder: Path) -> dict[str, str]:
    """Return, by operation, "" if its tests have passed, otherwise their outcome."""
    collected: list[str] = []
    outcomes: dict[str, str] = {}
    for record in json_lines.records(folder / TESTS):
        collected += record.get("collected", [])
        if "test" in record and outcomes.get(record["test"]) != "failed":
            outcomes[record["test"]] = record["outcome"]
    tests: dict[str, list[str]] = {}
    for test in dict.fromkeys(collected):
        for operation in operations_of(test):
            tests.setdefault(operation, []).append(outcomes.get(test, "unfinished"))
    return {operation: _verdict(Counter(found)) for operation, found in tests.items()}


def _verdict(counts: Counter[str]) -> str:
    everything = sum(counts.values())
    if counts["failed"]:
        return f"{counts['failed']} of {everything} tests failed"
    if counts["unfinished"]:
        return f"{counts['unfinished']} of {everything} tests did not end"
    return "" if counts["passed"] else "its tests were skipped"
