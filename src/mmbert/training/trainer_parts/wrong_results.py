"""Reports of hosts whose results were wrong: in the log, and among the reports of nodes."""

import time
from collections.abc import Sequence
from pathlib import Path

from mmbert.journals.run_journal import (
    NODE_REPORTS_NAME,
    NodeProblem,
    NodeReport,
    append_record,
    read_records,
)
from mmbert.training.fault_tolerance.step_comparison import Verdict
from mmbert.training.metrics.loggers.container import LoggerContainer

# Hosts and ranks named in a line; log.jsonl has all.
_NAMED = 8


def report_wrong_result(
    loggers: LoggerContainer, run_folder: Path, step: int, what: str, verdict: Verdict
) -> None:
    """Log who was wrong in `step`; report the host, if it can only be one.

    It is to be left out at the next start if it was wrong twice: in two runs of this step, in which
    other ranks computed the same rows soundly, or in an earlier step.

    Args:
        what: what the step showed, for the beginning of the line.
    """
    if not loggers.active:
        return
    host, path = verdict.suspect, run_folder / NODE_REPORTS_NAME
    ranks = [entry.rank for entry in verdict.wrong]
    exclude = host is not None and (verdict.failures > 1 or _was_reported(path, host))
    if host is None:
        who = "not attributable to one host"
        if verdict.hosts:
            who += f" of {_listed(verdict.hosts)}"
    else:
        on = f"rank{'s' if len(ranks) > 1 else ''} {_listed(ranks)} on " if ranks else ""
        who = f"{on}host {host} is suspected{' and is to be left out' if exclude else ''}"
    text = f"step {step}: {what}; {who}"
    loggers.event(
        "wrong result",
        step,
        text,
        hosts=list(verdict.hosts),
        ranks=ranks,
        rows=sorted({row for entry in verdict.wrong for row in entry.rows}),
        exclude=exclude,
    )
    if host is not None:
        report = NodeReport(
            unix_time=time.time(),
            host=host,
            problem=NodeProblem.WRONG,
            detail=text,
            step=step,
            rank=ranks[0] if ranks else None,
            exclude=exclude,
        )
        loggers.attempt(path, lambda: append_record(path, report))


def _was_reported(path: Path, host: str) -> bool:
    """Whether the results of `host` were wrong before."""
    return any(
        report.host == host and report.problem is NodeProblem.WRONG
        for report in read_records(path, NodeReport)
    )


def _listed(names: Sequence[object]) -> str:
    return ", ".join(map(str, names[:_NAMED])) + (", …" if len(names) > _NAMED else "")
