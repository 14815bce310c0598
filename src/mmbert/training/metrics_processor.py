"""What is told about training: when a line is due, what stands in it, and what each phase did.

The loop calls one method per occasion. Every method is called on all ranks, because the figures are
sums over them; rank 0 writes (see report.py).
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmbert.data.loading.rows import Row
from mmbert.data.sampling.loss_table import LossTable
from mmbert.schedule import PhasePlan, StepPlan, describe_phase_settings, step_settings
from mmbert.training.fault_tolerance.watchdog import Activity
from mmbert.training.metrics.interval_metrics import IntervalSums
from mmbert.training.metrics.log_metrics import (
    SmoothedRate,
    data_metrics,
    language_metrics,
    throughput_metrics,
)
from mmbert.training.metrics.loggers.console_logger import format_count
from mmbert.training.metrics.loggers.tensorboard_tags import training_tags, validation_tags
from mmbert.training.metrics.results import Losses
from mmbert.training.train_step import StepOutcome
from mmbert.training.trainer import Trainer

# Figures per language go to TensorBoard and the log with every tenth line, and in a long run about
# this often in all: at every line, 1,800 languages would make tens of gigabytes of them.
MIN_LINES_BETWEEN_LANGUAGES = 10
MAX_LANGUAGE_LINES = 400


@dataclass(frozen=True)
class ClosedInterval:
    """Sums over all ranks of the steps since the last log line."""

    sums: IntervalSums
    losses: LossTable
    outcome: StepOutcome | None
    """Of the last finished step; None if all of them were skipped or non-finite."""
    losses_for_languages: LossTable | None
    """Since the last line with metrics per language; None if this line has none."""


class MetricsProcessor:
    """Keeps account between lines; one per run of the loop."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._phase: str | None = None
        self._last: StepOutcome | None = None
        self._lines = 0
        self._rate = SmoothedRate()
        lines = trainer.plan.steps / trainer.recipe.logging.every_steps
        self._languages_every = max(
            MIN_LINES_BETWEEN_LANGUAGES, math.ceil(lines / MAX_LANGUAGE_LINES)
        )
        self._by_language = LossTable.zeros(len(trainer.table.names))
        self._last_validation: tuple[int, object, Losses] | None = None

    def in_phase(self, phase_plan: PhasePlan) -> bool:
        """Whether this phase has been entered since the process started."""
        return self._phase == phase_plan.name

    def start_phase(self, phase_plan: PhasePlan) -> None:
        """One line; the guard forgets; the held-out loss before the first step."""
        trainer, phase = self._trainer, self._trainer.recipe.phases[phase_plan.index]
        self._phase = phase.name
        begins = trainer.step == phase_plan.first_step
        if begins:
            trainer.loss_monitor.start_phase()
        trainer.loggers.event(
            "phase",
            trainer.step,
            f"phase {phase.name} ({phase_plan.index + 1} of {len(trainer.plan.phases)}) "
            f"{'begins' if begins else f'continues at step {trainer.step}'}: "
            f"{format_count(phase_plan.tokens)} tokens in {phase_plan.steps} steps, "
            f"{trainer.table.languages_in(phase_plan.index)} languages, context {phase.context}, "
            f"{describe_phase_settings(trainer.recipe, trainer.plan, phase_plan.index)}",
        )
        if begins:
            losses = self._validate(phase_plan)
            trainer.results.phases[phase_plan.index].held_out_start = losses
            trainer.write_results()
        trainer.interval.restart()

    def end_phase(self, phase_plan: PhasePlan) -> None:
        """The held-out loss after the last step."""
        losses = self._validate(phase_plan)
        self._trainer.results.phases[phase_plan.index].held_out_end = losses
        self._trainer.write_results()
        self._trainer.interval.restart()

    def count_step(self, at: StepPlan, outcome: StepOutcome, rows: Sequence[Row]) -> None:
        """Take a good step into the interval."""
        self._last = outcome
        for row in rows:
            self._trainer.interval.add(row)

    def after_step(self, at: StepPlan) -> None:
        """Account for a finished step, then log and validate if due."""
        trainer = self._trainer
        trainer.loggers.progress(trainer.step)
        phase_plan = trainer.plan.phases[at.phase_index]
        seconds = trainer.interval.end_step()
        result = trainer.results.phases[at.phase_index]
        result.tokens = at.tokens_after - phase_plan.first_token
        result.seconds += seconds
        if at.step not in trainer.skipped.steps:
            self._rate.update(at.tokens_after - at.tokens_before, seconds)
        ends = trainer.step == phase_plan.end_step
        if trainer.step % trainer.recipe.logging.every_steps == 0 or ends:
            self._log_interval(at, with_languages=ends)
        every = trainer.recipe.evaluation.every_tokens
        if every and at.crosses_multiple_of(every) and not ends:
            self._validate(phase_plan)

    def log_skipped(self, at: StepPlan) -> None:
        """A step that a rollback excluded."""
        self._trainer.loggers.event(
            "passed over",
            at.step,
            f"step {at.step}: rows {at.first_row} to {at.first_row + at.rows - 1} are passed over, "
            "as decided after a loss spike",
        )

    def log_non_finite(self, at: StepPlan, outcome: StepOutcome, rows: Sequence[Row]) -> None:
        """A step that changed nothing because a loss or gradient was not finite."""
        self._log_bad_step(
            "not finite", at, outcome, rows, "loss or gradient is not finite; skipped"
        )

    def log_spike(self, at: StepPlan, outcome: StepOutcome, rows: Sequence[Row]) -> None:
        """A step whose loss stands out."""
        self._log_bad_step("spike", at, outcome, rows, f"loss spike: {outcome.loss:.4f}")

    def rewind(self) -> None:
        """What was counted since the checkpoint never happened."""
        self._trainer.loggers.rewind(self._trainer.step)
        self._last = None
        self._last_validation = None
        self._by_language = LossTable.zeros(len(self._trainer.table.names))

    def log_stopped(self, reason: str) -> None:
        """The run was asked to stop and has saved."""
        trainer = self._trainer
        trainer.write_results()
        trainer.loggers.event(
            "stopped",
            trainer.step,
            f"{reason}: saved at step {trainer.step}; the same command continues",
        )

    def _log_bad_step(
        self, kind: str, at: StepPlan, outcome: StepOutcome, rows: Sequence[Row], what: str
    ) -> None:
        """Log a bad step with the rows and languages of the whole batch."""
        trainer = self._trainer
        languages = trainer.table.languages
        own = {
            "rows": [
                {
                    "row": row.index,
                    "languages": sorted(
                        {languages[c] for c in row.segment_components.tolist() if c >= 0}
                    ),
                    "finite": row.index not in outcome.non_finite_rows,
                }
                for row in rows
            ]
            if trainer.grid.tensor.rank == 0
            else []
        }
        rows_logged = [entry for part in trainer.host_group.gather(own) for entry in part["rows"]]
        rows_logged.sort(key=lambda entry: entry["row"])
        seen = sorted({name for entry in rows_logged for name in entry["languages"]})
        trainer.loggers.event(
            kind,
            at.step,
            f"step {at.step}: {what} (rows {at.first_row} to {at.first_row + at.rows - 1}, "
            f"{len(seen)} languages: {', '.join(seen[:12])}{' …' if len(seen) > 12 else ''})",
            loss=outcome.loss if math.isfinite(outcome.loss) else str(outcome.loss),
            rows=rows_logged,
        )

    def close_interval(self, *, with_languages: bool) -> ClosedInterval:
        """Sum the steps since the last log line over all ranks (all call it), and begin anew.

        Args:
            with_languages: whether the line has metrics per language, whatever its number.
        """
        trainer = self._trainer
        losses = trainer.meter.collect(trainer.grid.data)
        sums = trainer.interval.collect(trainer.host_group, trainer.step_timer.collect())
        outcome, self._last = self._last, None
        by_language = None
        if outcome is not None:
            self._by_language += losses
            self._lines += 1
            if with_languages or self._lines % self._languages_every == 0:
                by_language = self._by_language
                self._by_language = LossTable.zeros(len(trainer.table.names))
        return ClosedInterval(sums, losses, outcome, by_language)

    def record(self, at: StepPlan, interval: ClosedInterval) -> dict[str, Any]:
        """Compute the record of an interval that ends with step `at`. Changes nothing."""
        trainer = self._trainer
        recipe, plan, table, sums = trainer.recipe, trainer.plan, trainer.table, interval.sums
        phase_plan, phase = plan.phases[at.phase_index], recipe.phases[at.phase_index]
        assert interval.outcome is not None
        report = interval.outcome.report
        record = {
            "step": at.step + 1,
            "steps": plan.steps,
            "phase": phase.name,
            "tokens": at.tokens_after,
            "loss": interval.losses.mean(),
            "step_loss": interval.outcome.loss,
            **step_settings(recipe, plan, at.step).scalars(),
            "gradient_norm": float(report.gradient_norm),
            **{name: float(value) for name, value in report.metrics.items()},
            "packing_efficiency": sums.packing_efficiency,
            "rows_per_step": at.rows,
            **data_metrics(table, at, sums.trained_tokens),
            **throughput_metrics(
                sums,
                devices=trainer.host_group.world_size,
                peak_flops=trainer.peak_flops,
                recent_rate=self._rate.tokens_per_second,
                phase_tokens_left=phase_plan.first_token + phase_plan.tokens - at.tokens_after,
                tokens_left=plan.tokens - at.tokens_after,
            ),
            "loss_by_tier": interval.losses.by_tier(table),
        }
        if interval.losses_for_languages is not None:
            record["loss_by_language"] = interval.losses_for_languages.by_language(table)
            record |= language_metrics(table, at, sums.trained_tokens)
        return record

    def _log_interval(self, at: StepPlan, *, with_languages: bool) -> None:
        """Close the interval and log it on rank 0, unless it has no finished step."""
        interval, loggers = (
            self.close_interval(with_languages=with_languages),
            self._trainer.loggers,
        )
        if interval.outcome is None or not loggers.active:
            return
        record = self.record(at, interval)
        if interval.losses_for_languages is not None:
            self._log_distributions(record)
        loggers.record(record)
        settings = step_settings(self._trainer.recipe, self._trainer.plan, at.step).scalars()
        tags = training_tags(
            record, settings=settings, optimizer_metrics=interval.outcome.report.metrics
        )
        loggers.log(record["step"], tags)

    def _log_distributions(self, record: dict[str, Any]) -> None:
        """Log a histogram over languages of each: loss, share over planned share, epochs."""
        wanted = record["wanted_share_by_language"]
        shares = {
            name: share / wanted[name]
            for name, share in record["share_by_language"].items()
            if wanted[name] > 0
        }
        for title, values in (
            ("loss", record["loss_by_language"]),
            ("share_over_wanted", shares),
            ("epochs", record["epochs_by_language"]),
        ):
            step, tag = self._trainer.step, f"languages/{title}"
            self._trainer.loggers.histogram(step, tag, np.array(list(values.values())))

    def _validate(self, phase_plan: PhasePlan) -> Losses:
        """The held-out loss now, with the phase's rotary bases; not twice for the same weights."""
        trainer, phase = self._trainer, self._trainer.recipe.phases[phase_plan.index]
        if self._last_validation is not None:
            step, bases, losses = self._last_validation
            if (step, bases) == (trainer.step, phase.rotary_bases):
                return losses
        begin = time.perf_counter()
        with trainer.step_timer.paused():
            found = trainer.validator.validate(
                trainer.engine.module,
                phase.rotary_bases,
                heartbeat=lambda: trainer.heartbeat(Activity.VALIDATE),
            )
        seconds = time.perf_counter() - begin
        trainer.interval.exclude(seconds)
        losses = Losses.of(found, trainer.table)
        self._last_validation = (trainer.step, phase.rotary_bases, losses)
        tiers = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.tiers.items())
        text = "none" if losses.overall is None else f"{losses.overall:.4f} ({tiers})"
        trainer.loggers.event(
            "held-out",
            trainer.step,
            f"held-out loss at step {trainer.step}: {text}",
            phase=phase.name,
            seconds=round(seconds, 3),
            overall=losses.overall,
            tiers=losses.tiers,
            languages=losses.languages,
        )
        trainer.loggers.log(trainer.step, validation_tags(losses))
        return losses
