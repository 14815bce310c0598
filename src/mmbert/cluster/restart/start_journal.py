"""Journal of the starts of a run, and of the nodes that died in them."""

import time
from collections.abc import Callable
from pathlib import Path

from mmbert.cluster.restart.failure_cause import Cause, Outcome
from mmbert.cluster.restart.placement import Placement
from mmbert.journals.run_journal import (
    NODE_REPORTS_NAME,
    STARTS_NAME,
    NodeProblem,
    NodeReport,
    StartEvent,
    append_record,
    read_records,
)


class StartJournal:
    """Entries of one execution of a job in the journals of its run folder."""

    def __init__(
        self, folder: Path, job: str, restart: int, say: Callable[[str], None], *, on_gpus: bool
    ) -> None:
        self._folder, self._job, self._restart = folder, job, restart
        self._say, self._on_gpus = say, on_gpus
        self._begun: StartEvent | None = None

    @property
    def has_begun(self) -> bool:
        """Whether the current start has its entry."""
        return self._begun is not None

    def begin(self, start: int, placement: Placement, step: int) -> None:
        """Enter the begin of a start, from the checkpoint of `step`."""
        self._begun = StartEvent(
            unix_time=time.time(),
            job=self._job,
            restart=self._restart,
            start=start,
            hosts=placement.hosts,
            tasks=placement.tasks,
            gpus=placement.tasks if self._on_gpus else 0,
            step=step,
            idle=placement.idle or None,
        )
        self._append(STARTS_NAME, self._begun)

    def end(self, outcome: Outcome, cause: Cause, why: str, step: int) -> None:
        """Enter the end of the start that has begun, if any, and its dead nodes."""
        begun, self._begun = self._begun, None
        if begun is not None:
            failed = cause not in (Cause.DONE, Cause.SAVED)
            changes = {
                "unix_time": time.time(),
                "step": step,
                "status": outcome.status,
                "cause": why if failed else None,
            }
            self._append(STARTS_NAME, begun.model_copy(update=changes))
        for host, why_dead in outcome.dead_nodes:
            report = NodeReport(
                unix_time=time.time(),
                host=host,
                problem=NodeProblem.DEAD,
                detail=f"{why_dead}; the ranks ended with status {outcome.status}",
                step=step,
                exclude=True,
            )
            self._append(NODE_REPORTS_NAME, report)

    def in_a_row(self, cause: Cause) -> int:
        """Return how many of the job's last starts ended with this cause."""
        count = 0
        for event in reversed(list(read_records(self._folder / STARTS_NAME, StartEvent))):
            if event.job != self._job or event.status is None:
                continue
            if not (event.cause or "").startswith(cause):
                break
            count += 1
        return count

    def node_reports(self) -> list[NodeReport]:
        """Return what was noticed about nodes in this run."""
        return list(read_records(self._folder / NODE_REPORTS_NAME, NodeReport))

    def _append(self, name: str, record: StartEvent | NodeReport) -> None:
        path = self._folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            append_record(path, record)
        except OSError as error:  # training matters more than its journal
            self._say(f"{path} cannot be written: {error.strerror}")
