"""The trainer: the parts of a run and the actions that the training loop calls."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import torch

from mmbert.checkpoint.imported_start import ImportedStart
from mmbert.checkpoint.imported_state import load_moments
from mmbert.checkpoint.store import RunState
from mmbert.data.loading.rows import Row
from mmbert.parallel.sanity_checks import SanityError, require_sane_model
from mmbert.recipe import dump_recipe
from mmbert.schedule import StepPlan, step_settings
from mmbert.training.engine.engine import Engine
from mmbert.training.fault_tolerance.hangs.watchdog import Activity
from mmbert.training.fault_tolerance.loop_requests import LoopRequests
from mmbert.training.fault_tolerance.loss_monitor import LossMonitor, SkippedSteps
from mmbert.training.fault_tolerance.stop_request import StopRequest
from mmbert.training.metrics_processor import MetricsProcessor
from mmbert.training.run_config import RunConfig
from mmbert.training.train_step import StepOutcome, StepRunner
from mmbert.training.trainer_parts.checkpointing import Checkpoints
from mmbert.training.trainer_parts.data_feed import DataFeed
from mmbert.training.trainer_parts.ranks import Ranks
from mmbert.training.trainer_parts.repetition import Repetitions
from mmbert.training.trainer_parts.rollbacks import Rollbacks


class LossCheck(Enum):
    """Result of checking a step's loss and gradients."""

    OK = "ok"
    NON_FINITE = "non-finite: the update was dropped"
    SPIKE = "far above the recent losses"


@dataclass
class Trainer:
    """Training state and the components that act on it. All ranks call every method."""

    run: RunConfig
    ranks: Ranks
    engine: Engine
    runner: StepRunner
    data: DataFeed
    checkpoints: Checkpoints
    metrics: MetricsProcessor
    loss_monitor: LossMonitor
    skipped: SkippedSteps
    repetitions: Repetitions
    rollbacks: Rollbacks
    stop: StopRequest
    step: int = 0
    """The next step to train."""

    def heartbeat(self, activity: Activity) -> None:
        """Report this rank's next activity to the watchdog."""
        self.ranks.heartbeat(self.step, activity)

    # Requests

    def pending_requests(self) -> LoopRequests:
        """Return the requests of this rank alone, at the cost of a few system calls."""
        return LoopRequests(
            stop=self.stop.reason(),
            save=self.checkpoints.time_save_is_due(),
            failure=self.metrics.loggers.failure or self.ranks.owner.lost,
        )

    def sync_requests(self) -> LoopRequests:
        """Combine the requests of all ranks in a separate host-side message."""
        self.heartbeat(Activity.SYNC_REQUESTS)
        return self.pending_requests().sync(self.ranks.host_group)

    # A step

    def start_phase(self, at: StepPlan) -> None:
        """Start the phase of step `at`, unless this process has already started it."""
        phase = self.run.plan.phases[at.phase_index]
        starts = self.step == phase.first_step
        if not starts and self.metrics.in_phase(phase):
            return
        self.ranks.watchdog.limits.begin_warm_up()
        if starts:
            self.loss_monitor.start_phase()
        self.metrics.start_phase(self.step, phase)

    def next_rows(self, at: StepPlan) -> list[Row]:
        """Return this rank's rows of step `at`."""
        self.heartbeat(Activity.READ_ROWS)
        self.metrics.step_timer.begin_step()
        with self.metrics.step_timer.host("data"):
            return self.data.next_rows(at.step, at.rows)

    def train_step(self, at: StepPlan, rows: Sequence[Row]) -> StepOutcome:
        """Train on the rows of one step."""
        self.metrics.profile_step()
        self.heartbeat(Activity.TRAIN_STEP)
        recipe, plan = self.run.recipe, self.run.plan
        self.repetitions.measure_tolerance(at, rows)
        return self.runner.run(
            rows, step_settings(recipe, plan, at.step), pending_requests=self.pending_requests
        )

    def repeat_step(self, at: StepPlan, rows: Sequence[Row], first: StepOutcome) -> StepOutcome:
        """Run a non-finite step again; its update is applied if it is finite then.

        Raises:
            SanityError: a host computes this step wrongly, again and again; the state is saved.
        """
        outcome, verdict = self.repetitions.repeat(at, rows, first)
        if not outcome.report.finite and verdict.suspect is not None and verdict.failures > 1:
            self.save("a host computes wrong results")
            self.finish_saving()
            raise SanityError(f"step {at.step} cannot be computed on host {verdict.suspect}")
        return outcome

    def check_loss(self, at: StepPlan, outcome: StepOutcome, rows: Sequence[Row]) -> LossCheck:
        """Check and log a step's loss. The result is the same on all ranks."""
        if not outcome.report.finite:
            self.metrics.log_non_finite(at, outcome, rows)
            self.repetitions.end(at.step)
            self.loss_monitor.count_non_finite(at.step)
            return LossCheck.NON_FINITE
        self.metrics.count_step(outcome, rows)
        spikes = self.loss_monitor.is_spike(outcome.loss)
        repeated = self.repetitions.compare_spike(at, rows, outcome, spikes=spikes)
        if spikes and not repeated:
            self.metrics.log_spike(at, outcome, rows)
        return LossCheck.SPIKE if spikes else LossCheck.OK

    def finish_step(self, at: StepPlan, rows: Sequence[Row]) -> None:
        """Advance to the next step; log, validate, compare ranks and save if due."""
        self.step = at.step + 1
        self.metrics.finish_step(at, trained=at.step not in self.skipped.steps)
        every = self.run.recipe.guard.sanity_every
        if every is not None and self.step % every == 0:
            self.heartbeat(Activity.COMPARE_RANKS)
            self.compare_ranks(rows)
        phase = self.run.plan.phases[at.phase_index]
        if self.step == phase.end_step:
            self.metrics.end_phase(self.step, phase)
            self.save("end of phase", phase_end=True)
        elif self.checkpoints.token_save_is_due(at):
            self.save("token interval")

    def compare_ranks(self, rows: Sequence[Row] = ()) -> None:
        """Verify that weights are finite, and that replicated weights are equal on all ranks.

        A fault in a collective or a device may not affect the loss, but must not reach a
        checkpoint. The `rows` of the last step are also compared within tensor groups.

        Raises:
            SanityError: raised on every rank.
        """
        partitions = None
        if self.engine.zero_stage == 3:  # the module holds no parameters between steps
            partitions = {part.name: part.master for part in self.engine.fragments()}
        seen = {f"row {row.index}": _row_bits(row).to(self.engine.device) for row in rows}
        require_sane_model(self.engine.module, self.ranks.grid, partitions=partitions, rows=seen)

    # Checkpoints

    def save(self, why: str, *, phase_end: bool = False, permanent: bool = False) -> None:
        """Save a checkpoint of the state before `step`, unless already saved.

        Ends of phases are permanent anyway.
        """
        if self.checkpoints.saved_step == self.step:
            return
        self.heartbeat(Activity.COMPARE_RANKS)
        self.compare_ranks()
        self.heartbeat(Activity.SAVE_CHECKPOINT)
        with self.metrics.step_timer.host("checkpoint"):
            self.metrics.loggers.sync()
            path = self.checkpoints.save(
                self.engine, self._run_state(phase_end), permanent=permanent
            )
        limits = self.ranks.watchdog.limits
        if limits.path is not None:
            self.metrics.loggers.attempt(limits.path, limits.write)
        blocked = self.checkpoints.store.blocked_seconds
        self.metrics.loggers.event(
            "checkpoint",
            self.step,
            f"checkpoint {path.name} ({why}); the step waited {blocked:.2f} s",
        )

    def finish_saving(self) -> None:
        """Wait until every checkpoint is on disk, on all ranks."""
        self.heartbeat(Activity.FINISH_SAVING)
        self.checkpoints.store.wait()

    def load(self, path: Path) -> None:
        """Restore weights, optimizer, data and metrics from the checkpoint at `path`."""
        self.heartbeat(Activity.LOAD_CHECKPOINT)
        self.ranks.watchdog.limits.begin_warm_up()
        state = self.checkpoints.load(self.engine, path)
        self.step = state.step
        self.data.load_state_dict(state)
        self.metrics.resume(state)
        self.loss_monitor.load_state_dict(state.extra["guard"])

    def start_from(self, start: ImportedStart) -> None:
        """Continue from another trainer's state: moments, optimizer step and place in the plan.

        The weights are those that the engine was built with.
        """
        self.heartbeat(Activity.LOAD_CHECKPOINT)
        self.ranks.host_group.raise_on_all_ranks(
            (lambda: start.state.verify(start.folder))
            if self.ranks.host_group.is_rank_zero
            else None
        )
        load_moments(self.engine, start.folder, start.state.optimizer.steps)
        self.step = start.step
        self.data.start_at(start.step)
        at = self.run.plan.at(start.step)
        before = at.tokens_before - self.run.plan.phases[at.phase_index].first_token
        self.metrics.results.phases[at.phase_index].tokens_elsewhere = before

    def verify_checkpoint(self, path: Path) -> None:
        """Read every file of the checkpoint at `path`.

        Raises:
            UserError: a file is damaged; raised on every rank.
        """
        self.heartbeat(Activity.VERIFY_CHECKPOINT)
        self.checkpoints.verify(path)

    def roll_back(self, at: StepPlan, rows: Sequence[Row], outcome: StepOutcome) -> bool:
        """Go back to a checkpoint after a spike, to run it again or to skip its rows.

        False if training continues from here.
        """
        rollback = self.rollbacks.begin(at, rows, outcome)
        if rollback is None:
            return False
        self.load(rollback.target)
        self.metrics.rewind(self.step)
        self.metrics.loggers.event("rollback", self.step, rollback.text)
        return True

    def _run_state(self, phase_end: bool) -> RunState:
        """Return the state that a checkpoint holds besides weights and optimizer state."""
        plan, table = self.run.plan, self.run.table
        done = plan.at(self.step - 1) if self.step else None
        phase = plan.phases[done.phase_index if done else 0]
        tokens = self.metrics.interval.totals(self.ranks.host_group)
        return RunState(
            step=self.step,
            tokens=0 if done is None else done.tokens_after,
            phase=phase.name,
            recipe=dump_recipe(self.run.recipe),
            data=dict(self.data.state_dict(self.step) or {}),
            tokenizer="tokenizer",
            language_tokens=table.by_language(tokens),
            extra={
                "component_tokens": table.to_names(tokens),
                "guard": self.loss_monitor.state_dict(),
            },
            phase_end=phase_end,
        )

    def close(self) -> None:
        """Close data and metrics and restore the signal handlers; keep the process group."""
        self.data.close()
        self.metrics.close()
        self.stop.close()


def _row_bits(row: Row) -> torch.Tensor:
    """Return the model inputs of a row, concatenated as int64 [numbers]."""
    parts = (row.input_ids, row.cu_seqlens, row.masked_positions, row.labels, row.weights > 0)
    return torch.from_numpy(np.concatenate(parts).astype(np.int64))
