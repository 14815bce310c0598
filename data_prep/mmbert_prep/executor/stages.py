"""Stages of shared work: between two barriers, tasks are claimed and progress is shown."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from rich.console import Console

from mmbert_prep.executor.progress import Meter, ProgressBar
from mmbert_prep.executor.work_units import Plan
from mmbert_prep.executor.workers import Team, claimed, clear_folder
from mmbert_prep.executor.workspace import Workspace


class Stages:
    """Runs stages for one worker."""

    def __init__(self, team: Team, space: Workspace, console: Console) -> None:
        self.team, self._space, self._console = team, space, console

    @property
    def leader(self) -> bool:
        """Whether this worker plans and reports."""
        return self.team.rank == 0

    def begin(self) -> None:
        """Forget the claims and counters of the stage before (the leader, while others wait)."""
        clear_folder(self._space.claims)
        clear_folder(self._space.progress)

    @contextlib.contextmanager
    def stage(self, name: str, title: str, total: int, done: int = 0) -> Iterator[Meter]:
        """A stage of `total` weight, `done` of it by an earlier run; ends when all have ended."""
        with contextlib.ExitStack() as stack:
            if self.leader:
                bar = ProgressBar(self._console, self._space.progress, name, title, total, done)
                stack.enter_context(bar)
            with contextlib.closing(Meter(self._space.progress, name, self.team.rank)) as meter:
                yield meter
            self.team.barrier()
        if self.leader:
            self.begin()
        self.team.barrier()

    def claimed(self, tasks: Sequence[str], weights: Sequence[int]) -> Iterator[int]:
        """Indices of the tasks that this worker is to do."""
        return claimed(self.team, self._space.claims, tasks, weights)

    def claimed_units(self, plan: Plan) -> Iterator[int]:
        """Indices of the units of work that this worker is to do."""
        weights = [unit.weight for unit in plan.units]
        return self.claimed([unit.key for unit in plan.units], weights)
