"""Checkpoints of a run, and their intervals."""

import time
from pathlib import Path

from mmbert.checkpoint.reader import verify_checkpoint
from mmbert.checkpoint.store import (
    CheckpointStore,
    LoadableEngine,
    RunState,
    SavableEngine,
    step_of,
)
from mmbert.recipe import CheckpointSettings
from mmbert.schedule import StepPlan
from mmbert.training.trainer_parts.ranks import Ranks


class Checkpoints:
    """Saves and loads the run's checkpoints, at the intervals that the recipe specifies."""

    def __init__(self, store: CheckpointStore, settings: CheckpointSettings, ranks: Ranks) -> None:
        self.store, self._settings, self._ranks = store, settings, ranks
        self.saved_step: int | None = None
        """Step of the last saved or loaded checkpoint."""
        self.saved_at = time.monotonic()

    def token_save_is_due(self, at: StepPlan) -> bool:
        """Whether step `at` has crossed a multiple of `checkpoint.every_tokens`."""
        every = self._settings.every_tokens
        return every is not None and at.crosses_multiple_of(every)

    def time_save_is_due(self) -> bool:
        """Whether `checkpoint.every_minutes` have passed since the last save, on rank 0's clock."""
        minutes = self._settings.every_minutes
        return (
            minutes is not None
            and self._ranks.host_group.is_rank_zero
            and time.monotonic() - self.saved_at >= 60 * minutes
        )

    def save(self, engine: SavableEngine, state: RunState, *, permanent: bool) -> Path:
        """Save a checkpoint, asynchronously if the recipe requires it; collective."""
        path = self.store.save(engine, state, permanent=permanent)
        self.saved_step, self.saved_at = state.step, time.monotonic()
        return path

    def load(self, engine: LoadableEngine, path: Path) -> RunState:
        """Load weights and optimizer state into `engine`; collective."""
        state = self.store.load(engine, path)
        self.saved_step = state.step
        return state

    def verify(self, path: Path) -> None:
        """Verify all files of a checkpoint, divided among the ranks; collective.

        Raises:
            UserError: a file is damaged; raised on every rank.
        """
        group = self._ranks.host_group
        problem = verify_checkpoint(path, rank=group.rank, world_size=group.world_size)
        for found in group.gather(problem):
            if found is not None:
                raise found

    def remove_after(self, step: int) -> None:
        """Delete the checkpoints of later steps on rank 0, newest first; collective.

        After a crash in between, no remaining checkpoint is newer than a deleted one.

        Raises:
            OwnershipLostError: the run folder has another owner; raised on every rank.
        """

        def remove() -> None:
            for path in reversed(self.store.list()):
                if step_of(path) > step:
                    self.store.remove(path)

        group = self._ranks.host_group
        group.raise_on_all_ranks(remove if group.is_rank_zero else None)
