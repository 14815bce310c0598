"""Rollbacks after loss spikes: first to run the same rows again, then to skip them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmbert.checkpoint.store import step_of
from mmbert.data.loading.rows import Row
from mmbert.recipe import GuardSettings
from mmbert.schedule import StepPlan
from mmbert.training.fault_tolerance.hangs.watchdog import Activity
from mmbert.training.fault_tolerance.loss_monitor import SkippedSteps
from mmbert.training.metrics.loggers.container import LoggerContainer
from mmbert.training.train_step import StepOutcome
from mmbert.training.trainer_parts.checkpointing import Checkpoints
from mmbert.training.trainer_parts.ranks import Ranks
from mmbert.training.trainer_parts.repetition import Repetitions


@dataclass(frozen=True)
class Rollback:
    """A decided rollback."""

    target: Path
    """Checkpoint to return to."""
    text: str
    """What is done, for the log."""


@dataclass(frozen=True)
class Rollbacks:
    """Decides on rollbacks and records them. All ranks call every method."""

    settings: GuardSettings
    ranks: Ranks
    checkpoints: Checkpoints
    skipped: SkippedSteps
    repetitions: Repetitions
    loggers: LoggerContainer

    def begin(self, at: StepPlan, rows: Sequence[Row], outcome: StepOutcome) -> Rollback | None:
        """Record the rollback after a spike at step `at`; None if there is none.

        A spike is repeated first. Only if it is in the data, and with `guard.rollback`, are its
        rows skipped, and those of the step before: its update produced the weights that the loss
        was measured with.
        """
        if self.repetitions.accepts(at.step):
            return None
        repeats = self.repetitions.wants_repetition(at.step)
        target = self._target(at.step, repeats=repeats)
        if target is None:
            self.repetitions.accept(at.step)
            return None
        first = _first_suspect(at.step)
        if repeats:
            begin = step_of(target)
            self.loggers.event(
                "repetition",
                at.step,
                f"running steps {begin}-{at.step} again from {target.name}, with the same rows, to "
                f"see whether the spike repeats: this costs {at.step - begin + 1} steps",
            )
            text = f"rolled back to {target.name}; running steps {begin}-{at.step} again"
        else:
            self.skipped.add(range(first, at.step + 1))
            text = f"rolled back to {target.name}; skipping the data of steps {first}-{at.step}"
        # Checkpoints first, then the record: after a crash in between, the run only repeats the
        # spike.
        self.checkpoints.remove_after(first)
        if repeats:
            self.repetitions.begin(at, step_of(target), rows, outcome)
        else:
            self.loggers.attempt(self.skipped.path, self.skipped.write)
            self.repetitions.forget_from(first)
        self.ranks.host_group.barrier()
        return Rollback(target, text)

    def _target(self, spike: int, *, repeats: bool) -> Path | None:
        """Return the checkpoint to roll back to after a spike at step `spike`, if any.

        None with a log entry if the rollback limit is reached or no checkpoint is old enough.

        Args:
            repeats: whether to repeat the spike rather than skip its rows.
        """
        if not repeats and not self.settings.rollback:
            return None
        self.ranks.heartbeat(spike, Activity.FINISH_SAVING)
        self.checkpoints.store.wait()
        target = self.checkpoints.store.latest_valid(up_to_step=_first_suspect(spike))
        limit = self.settings.rollback_limit
        if target is not None and (repeats or self.skipped.rollbacks < limit):
            return target
        why = (
            "no checkpoint lies before it"
            if target is None
            else f"guard.rollback_limit ({limit}) is reached"
        )
        self.loggers.event("no rollback", spike, f"no rollback after step {spike}: {why}")
        return None


def _first_suspect(spike: int) -> int:
    """Return the first step to skip after a spike."""
    return max(0, spike - 1)
