"""Log entries about the nodes at a start: copies of the shards, speed of the links, slow nodes."""

import time
from functools import partial
from pathlib import Path

from mmbert.journals.run_journal import NODE_REPORTS_NAME, NodeProblem, NodeReport, append_record
from mmbert.training.metrics.loggers.container import LoggerContainer
from mmbert.training.nodes.link_report import LinkReport
from mmbert.training.nodes.local_shards import LocalShards


def log_nodes(
    loggers: LoggerContainer,
    step: int,
    run_folder: Path,
    local: LocalShards | None,
    links: LinkReport | None,
) -> None:
    """Log what was found, on rank 0; note slow nodes in the run's journal."""
    if local is not None:
        loggers.event("shards copied", step, local.text, **local.details)
    if links is None:
        return
    loggers.event("links", step, links.text, **links.details)
    for warning in links.warnings:
        loggers.event("warning", step, f"warning: {warning}")
    journal = run_folder / NODE_REPORTS_NAME
    for node in links.slow_nodes:
        report = NodeReport(
            unix_time=time.time(),
            host=node.name,
            problem=NodeProblem.SLOW,
            detail=node.detail,
            step=step,
            rank=node.rank,
        )
        loggers.attempt(journal, partial(append_record, journal, report))
