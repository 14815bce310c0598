"""Stages of shared work: tasks claimed by workers between two barriers, with a progress bar."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from rich.console import Console

from mmbert.ownership import Unowned
from mmbert_prep.executor.claims import claim_tasks, make_empty_folder
from mmbert_prep.executor.progress import Meter, ProgressBar
from mmbert_prep.executor.work_units import WorkPlan
from mmbert_prep.executor.workers import WorkerGroup
from mmbert_prep.executor.workspace import Workspace


class Stages:
    """The stages of a run, from the view of one worker."""

    def __init__(self, group: WorkerGroup, workspace: Workspace, console: Console) -> None:
        self.group, self._workspace, self._console = group, workspace, console
        self.owner = Unowned()
        """Ownership of the output folder, checked before this worker claims or publishes."""

    @property
    def is_rank_zero(self) -> bool:
        """Whether this worker also plans and reports."""
        return self.group.rank == 0

    def begin(self) -> None:
        """Clear the claims and counters of the previous stage, on rank 0 while the others wait."""
        make_empty_folder(self._workspace.claims)
        make_empty_folder(self._workspace.progress)

    @contextlib.contextmanager
    def stage(self, name: str, title: str, total: int, done: int = 0) -> Iterator[Meter]:
        """Run a stage until all workers have finished it.

        `total`: units of progress of the stage; `done`: those completed by an earlier run.
        """
        with contextlib.ExitStack() as stack:
            if self.is_rank_zero:
                bar = ProgressBar(self._console, self._workspace.progress, name, title, total, done)
                stack.enter_context(bar)
            with contextlib.closing(
                Meter(self._workspace.progress, name, self.group.rank)
            ) as meter:
                yield meter
            self.group.barrier()
        if self.is_rank_zero:
            self.owner.check()
            self.begin()
        self.group.barrier()

    def claim_tasks(self, tasks: Sequence[str], weights: Sequence[int]) -> Iterator[int]:
        """Yield the indices of the tasks that this worker claims."""
        self.owner.check()
        for index in claim_tasks(self.group, self._workspace.claims, tasks, weights):
            yield index
            self.owner.check()

    def claim_units(self, plan: WorkPlan) -> Iterator[int]:
        """Yield the indices of the work units that this worker claims."""
        weights = [unit.input_bytes for unit in plan.units]
        return self.claim_tasks([unit.key for unit in plan.units], weights)
