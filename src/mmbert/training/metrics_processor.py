"""What is told about training: when a line is due, what stands in it, and what each phase did.

The loop calls one method per occasion. Every method is called on all ranks, because the figures are
sums over them; rank 0 writes (see report.py).
"""

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmbert.data.loading.rows import Row
from mmbert.data.sampling.loss_table import LossTable
from mmbert.schedule import PhasePlan, StepPlan, learning_rate, temperature, weight_decay
from mmbert.training.fault_tolerance.watchdog import Activity
from mmbert.training.metrics.log_metrics import (
    data_figures,
    language_figures,
    smoothed_rate,
    speed_figures,
)
from mmbert.training.metrics.loggers import format_count
from mmbert.training.metrics.results import Losses
from mmbert.training.metrics.tensorboard_tags import held_out_tags, training_tags
from mmbert.training.train_step import StepOutcome
from mmbert.training.trainer import Session

# Figures per language go to TensorBoard and the log with every tenth line, and in a long run about
# this often in all: at every line, 1,800 languages would make tens of gigabytes of them.
LANGUAGES_EVERY_LINES = 10
LANGUAGE_LINES = 400


class Journal:
    """Keeps account between lines; one per run of the loop."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._phase: str | None = None
        self._last: StepOutcome | None = None
        self._lines = 0
        self._recent_rate: float | None = None
        lines = session.plan.steps / session.recipe.logging.every_steps
        self._languages_every = max(LANGUAGES_EVERY_LINES, math.ceil(lines / LANGUAGE_LINES))
        self._by_language = LossTable.zeros(len(session.table.names))
        self._held_out: tuple[int, object, Losses] | None = None

    def in_phase(self, phase_plan: PhasePlan) -> bool:
        """Whether this phase has been entered since the process started."""
        return self._phase == phase_plan.name

    def enter_phase(self, phase_plan: PhasePlan) -> None:
        """One line; the guard forgets; the held-out loss before the first step."""
        session, phase = self._session, self._session.recipe.phases[phase_plan.index]
        self._phase = phase.name
        begins = session.step == phase_plan.first_step
        if begins:
            session.loss_monitor.start_phase()
        session.reporter.event(
            "phase",
            session.step,
            f"phase {phase.name} ({phase_plan.index + 1} of {len(session.plan.phases)}) "
            f"{'begins' if begins else f'continues at step {session.step}'}: "
            f"{format_count(phase_plan.tokens)} tokens in {phase_plan.steps} steps, "
            f"{session.table.languages_in(phase_plan.index)} languages, context {phase.context}, "
            f"mask ratio {phase.mask_ratio:g}, temperature {_span(phase.temperature)}, "
            f"dropout {session.recipe.dropout_in(phase):g}, "
            f"rotary bases {phase.rotary_bases.global_:g}/{phase.rotary_bases.local_:g}",
        )
        if begins:
            losses = self._evaluate(phase_plan)
            session.results.phases[phase_plan.index].held_out_start = losses
            session.write_results()
        session.interval.restart()

    def leave_phase(self, phase_plan: PhasePlan) -> None:
        """The held-out loss after the last step."""
        losses = self._evaluate(phase_plan)
        self._session.results.phases[phase_plan.index].held_out_end = losses
        self._session.write_results()
        self._session.interval.restart()

    def count(self, at: StepPlan, outcome: StepOutcome, rows: Sequence[Row]) -> None:
        """Take a good step into the interval."""
        self._last = outcome
        for row in rows:
            self._session.interval.add(row)

    def after_step(self, at: StepPlan) -> None:
        """A log line and an evaluation, if they are due."""
        session = self._session
        session.reporter.advance(session.step)
        phase_plan = session.plan.phases[at.phase_index]
        ends = session.step == phase_plan.end_step
        if session.step % session.recipe.logging.every_steps == 0 or ends:
            self._line(at, phase_plan, with_languages=ends)
        every = session.recipe.evaluation.every_tokens
        if every and at.crosses_multiple_of(every) and not ends:
            self._evaluate(phase_plan)

    def passed_over(self, at: StepPlan) -> None:
        """A step that a rollback excluded."""
        self._session.reporter.event(
            "passed over",
            at.step,
            f"step {at.step}: rows {at.first_row} to {at.first_row + at.rows - 1} are passed over, "
            "as decided after a loss spike",
        )

    def not_finite(self, at: StepPlan, outcome: StepOutcome, rows: Sequence[Row]) -> None:
        """A step that changed nothing because a loss or gradient was not finite."""
        self._trouble("not finite", at, outcome, rows, "loss or gradient is not finite; skipped")

    def spike(self, at: StepPlan, outcome: StepOutcome, rows: Sequence[Row]) -> None:
        """A step whose loss stands out."""
        self._trouble("spike", at, outcome, rows, f"loss spike: {outcome.loss:.4f}")

    def rolled_back(self) -> None:
        """What was counted since the checkpoint never happened."""
        self._session.reporter.rewind(self._session.step)
        self._last = None
        self._held_out = None
        self._by_language = LossTable.zeros(len(self._session.table.names))

    def stopped(self, reason: str) -> None:
        """The run was asked to stop and has saved."""
        session = self._session
        session.write_results()
        session.reporter.event(
            "stopped",
            session.step,
            f"{reason}: saved at step {session.step}; the same command continues",
        )

    def _trouble(
        self, kind: str, at: StepPlan, outcome: StepOutcome, rows: Sequence[Row], what: str
    ) -> None:
        """Log a bad step with the rows and languages of the whole batch."""
        session = self._session
        languages = session.table.languages
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
            if session.grid.tensor.rank == 0
            else []
        }
        told = [entry for part in session.host_group.gather(own) for entry in part["rows"]]
        told.sort(key=lambda entry: entry["row"])
        seen = sorted({name for entry in told for name in entry["languages"]})
        session.reporter.event(
            kind,
            at.step,
            f"step {at.step}: {what} (rows {at.first_row} to {at.first_row + at.rows - 1}, "
            f"{len(seen)} languages: {', '.join(seen[:12])}{' …' if len(seen) > 12 else ''})",
            loss=outcome.loss if math.isfinite(outcome.loss) else str(outcome.loss),
            rows=told,
        )

    def _line(self, at: StepPlan, phase_plan: PhasePlan, *, with_languages: bool) -> None:
        """One line of figures: on the screen, in log.jsonl and in TensorBoard."""
        session, phase = self._session, self._session.recipe.phases[at.phase_index]
        losses = session.meter.collect(session.grid.data)
        sums = session.interval.collect(session.host_group, session.clock.collect())
        session.note_tokens(sums)
        result = session.results.phases[at.phase_index]
        result.tokens = (session.step - phase_plan.first_step) and (
            at.tokens_after - phase_plan.first_token
        )
        result.seconds += sums.seconds
        if self._last is None:
            return  # every step of the interval was passed over
        self._by_language += losses
        self._lines += 1
        self._recent_rate = smoothed_rate(self._recent_rate, sums)
        table = session.table
        report = self._last.report
        record = {
            "step": session.step,
            "steps": session.plan.steps,
            "phase": phase.name,
            "tokens": at.tokens_after,
            "loss": losses.mean(),
            "step_loss": self._last.loss,
            "learning_rate": learning_rate(session.recipe, session.plan, at.step),
            "weight_decay": weight_decay(session.recipe, session.plan, at.step),
            "gradient_norm": float(report.gradient_norm),
            "update_rms_clipped_share": float(report.update_rms_clipped_share),
            "mask_ratio": phase.mask_ratio,
            "dropout": session.recipe.dropout_in(phase),
            "temperature": temperature(session.recipe, session.plan, at.step),
            "packing_efficiency": sums.packing_efficiency,
            "rows_per_step": at.rows,
            **data_figures(table, at, session.component_tokens),
            **speed_figures(
                sums,
                devices=session.host_group.world_size,
                peak_flops=session.peak_flops,
                recent_rate=self._recent_rate,
                left_in_phase=phase_plan.first_token + phase_plan.tokens - at.tokens_after,
                left=session.plan.tokens - at.tokens_after,
            ),
            "loss_by_tier": losses.by_tier(table),
        }
        if with_languages or self._lines % self._languages_every == 0:
            by_language = self._by_language.by_language(table)
            figures = language_figures(table, at, session.component_tokens)
            record |= {"loss_by_language": by_language, **figures}
            self._by_language = LossTable.zeros(len(table.names))
            self._distributions(record)
        session.reporter.line(record)
        session.reporter.scalars(session.step, training_tags(record))
        self._last = None

    def _distributions(self, record: dict[str, Any]) -> None:
        """All languages in one picture each: losses, how far shares are from the wanted, epochs."""
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
            step, tag = self._session.step, f"languages/{title}"
            self._session.reporter.histogram(step, tag, np.array(list(values.values())))

    def _evaluate(self, phase_plan: PhasePlan) -> Losses:
        """The held-out loss now, with the phase's rotary bases; not twice for the same weights."""
        session, phase = self._session, self._session.recipe.phases[phase_plan.index]
        if self._held_out is not None:
            step, bases, losses = self._held_out
            if (step, bases) == (session.step, phase.rotary_bases):
                return losses
        begin = time.perf_counter()
        with session.clock.paused():
            found = session.held_out.loss(
                session.engine.module,
                phase.rotary_bases,
                heartbeat=lambda: session.heartbeat(Activity.VALIDATE),
            )
        seconds = time.perf_counter() - begin
        session.interval.leave_out(seconds)
        losses = Losses.of(found, session.table)
        self._held_out = (session.step, phase.rotary_bases, losses)
        tiers = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.tiers.items())
        text = "none" if losses.overall is None else f"{losses.overall:.4f} ({tiers})"
        session.reporter.event(
            "held-out",
            session.step,
            f"held-out loss at step {session.step}: {text}",
            phase=phase.name,
            seconds=round(seconds, 3),
            overall=losses.overall,
            tiers=losses.tiers,
            languages=losses.languages,
        )
        session.reporter.scalars(session.step, held_out_tags(losses))
        return losses


def _span(settings: object) -> str:
    start, end = settings.start, settings.end  # type: ignore[attr-defined]
    return f"{start:g}" if start == end else f"{start:g} to {end:g}"
