"""Collects metrics and decides when to log, validate and record phase results.

All ranks call every method, because metrics are sums over ranks; rank 0 writes them (see
`LoggerContainer`).
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence

import torch

from mmbert.checkpoint.store import RunState
from mmbert.data.loading.rows import Row
from mmbert.data.sampling.loss_table import LossTable
from mmbert.hardware import peak_flops
from mmbert.recipe import Objective
from mmbert.schedule import PhasePlan, StepPlan, step_settings
from mmbert.training.engine.engine import Engine
from mmbert.training.fault_tolerance.hangs.watchdog import Activity
from mmbert.training.metrics.communication_timer import CollectiveTimer
from mmbert.training.metrics.interval_metrics import IntervalMetrics
from mmbert.training.metrics.log_metrics import SmoothedRate
from mmbert.training.metrics.loggers.container import LoggerContainer
from mmbert.training.metrics.loggers.tensorboard_tags import training_tags, validation_tags
from mmbert.training.metrics.loss_meter import LossMeter
from mmbert.training.metrics.profiler import Profiler
from mmbert.training.metrics.results import Losses, Results
from mmbert.training.metrics.step_timer import StepTimer
from mmbert.training.metrics.validation import Validator
from mmbert.training.run_config import RunConfig
from mmbert.training.train_step import StepOutcome
from mmbert.training.trainer_parts.bad_step import describe_batch, describe_rows
from mmbert.training.trainer_parts.event_texts import held_out_text, phase_text
from mmbert.training.trainer_parts.interval_record import (
    ClosedInterval,
    interval_record,
    language_distributions,
)
from mmbert.training.trainer_parts.ranks import Ranks
from mmbert.training.trainer_parts.slow_nodes import SlowNodes

# Minimum interval of per-language metrics in log lines, and maximum number of lines with them in a
# run. In every line, 1,800 languages would take tens of gigabytes.
MIN_LANGUAGE_INTERVAL = 10
MAX_LANGUAGE_LINES = 400


class MetricsProcessor:
    """Meters, timers, loggers and results of a run."""

    def __init__(
        self,
        run: RunConfig,
        ranks: Ranks,
        engine: Engine,
        validators: Mapping[Objective, Validator],
        results: Results,
        profile_steps: int,
    ) -> None:
        self._run, self._ranks, self._engine = run, ranks, engine
        device, components = engine.device, len(run.table.names)
        self.loggers = LoggerContainer(active=ranks.host_group.is_rank_zero, owner=ranks.owner)
        self.results, self._validators = results, validators
        self.meter = LossMeter(components, device)
        self.interval = IntervalMetrics(
            components, run.recipe.model, run.encoder.vocab_size, ranks.grid, device
        )
        self.step_timer = StepTimer(device, reduces_in_backward=engine.zero_stage > 1)
        self._collective_timer = CollectiveTimer(self.step_timer)
        self._profiler = Profiler(
            run.folder / "profile", profile_steps if ranks.host_group.is_rank_zero else 0
        )
        self._slow_nodes = SlowNodes(
            run.folder, ranks.host_group, self.loggers, profile_steps=profile_steps
        )
        # Peak in bfloat16; None on a CPU, where MFU is not logged.
        on_gpu = device.type == "cuda"
        self._peak_flops = peak_flops(torch.cuda.get_device_name(device)) if on_gpu else None
        self._rate = SmoothedRate()
        self._phase: str | None = None
        self._last: StepOutcome | None = None
        self._last_validation: tuple[int, object, dict[Objective, Losses]] | None = None
        self._by_language = LossTable.zeros(components)
        self._lines = 0
        lines = run.plan.steps / run.recipe.logging.every_steps
        self._languages_every = max(MIN_LANGUAGE_INTERVAL, math.ceil(lines / MAX_LANGUAGE_LINES))

    def in_phase(self, phase: PhasePlan) -> bool:
        """Whether this process has started or resumed the phase already."""
        return self._phase == phase.name

    def start_phase(self, step: int, phase: PhasePlan) -> None:
        """Log the phase's settings; at its first step, validate."""
        self._phase = phase.name
        self.interval.causal = self._run.recipe.phases[phase.index].causal
        self._slow_nodes.restart()
        starts = step == phase.first_step
        self.loggers.event("phase", step, phase_text(self._run, step, phase))
        if starts:
            losses, result = self._validate(step, phase), self.results.phases[phase.index]
            result.held_out_start = losses["masked"]
            result.held_out_causal_start = losses.get("causal")
            self.write_results()
        self.interval.restart()

    def end_phase(self, step: int, phase: PhasePlan) -> None:
        """Validate after the phase's last step."""
        losses, result = self._validate(step, phase), self.results.phases[phase.index]
        result.held_out_end = losses["masked"]
        result.held_out_causal_end = losses.get("causal")
        self.write_results()
        self.interval.restart()

    def count_step(self, outcome: StepOutcome, rows: Sequence[Row]) -> None:
        """Count a step whose update was applied, and its rows."""
        self._last = outcome
        for row in rows:
            self.interval.add(row)

    def finish_step(self, at: StepPlan, *, trained: bool) -> None:
        """Record a step in the phase's results, then log and validate if due.

        Args:
            trained: False for a step whose rows were skipped.
        """
        step, phase = at.step + 1, self._run.plan.phases[at.phase_index]
        self.loggers.progress(step)
        seconds = self.interval.end_step()
        result = self.results.phases[at.phase_index]
        result.tokens = at.tokens_after - phase.first_token
        result.seconds += seconds
        if trained:
            self._rate.update(at.tokens_after - at.tokens_before, seconds)
        ends = step == phase.end_step
        if step % self._run.recipe.logging.every_steps == 0 or ends:
            interval = self.close_interval(step, with_languages=ends)
            if interval is not None and self.loggers.active:
                self._log_interval(at, interval)
        every = self._run.recipe.evaluation.every_tokens
        if every and at.crosses_multiple_of(every) and not ends:
            self._validate(step, phase)

    def close_interval(self, step: int, *, with_languages: bool) -> ClosedInterval | None:
        """Sum the steps from the last log line to `step` over all ranks; begin a new interval.

        Returns None if all steps of the interval were skipped or non-finite.

        Args:
            with_languages: whether to include per-language metrics even if they are not due.
        """
        losses = self.meter.collect(self._ranks.grid.data)
        time_split = self.step_timer.collect()
        numbers = self._slow_nodes.numbers(self.step_timer.take_steps())
        sums = self.interval.collect(self._ranks.host_group, time_split, numbers)
        own_work = self._slow_nodes.update(step, sums.own_work)
        outcome, self._last = self._last, None
        if outcome is None:
            return None
        self._by_language += losses
        self._lines += 1
        by_language = None
        if with_languages or self._lines % self._languages_every == 0:
            by_language = self._by_language
            self._by_language = LossTable.zeros(len(self._run.table.names))
        return ClosedInterval(sums, losses, outcome, by_language, own_work)

    def rewind(self, step: int) -> None:
        """Discard measurements since the checkpoint of `step`, after a rollback to it."""
        self.meter.collect(self._ranks.grid.data)
        self.step_timer.collect()
        self.step_timer.take_steps()
        self._slow_nodes.restart()
        self.interval.restart()
        self.loggers.rewind(step)
        self._last = None
        self._last_validation = None
        self._by_language = LossTable.zeros(len(self._run.table.names))

    def resume(self, state: RunState) -> None:
        """Restore the token counts from a checkpoint; discard later results."""
        self.interval.resume(self._run.table.from_names(state.extra["component_tokens"]))
        self.results.rewind(state.step)

    def log_skipped(self, at: StepPlan) -> None:
        """Log a step whose rows are skipped after a rollback."""
        last_row = at.first_row + at.rows - 1
        text = f"step {at.step}: skipping rows {at.first_row}-{last_row} after a loss spike"
        self.loggers.event("passed over", at.step, text)  # the kind is part of log.jsonl's format

    def log_non_finite(self, at: StepPlan, outcome: StepOutcome, rows: Sequence[Row]) -> None:
        """Log a step whose update was dropped because a loss or gradient was not finite."""
        what = "non-finite loss or gradient; update dropped"
        self._log_bad_step("not finite", at, outcome, rows, what)

    def log_spike(self, at: StepPlan, outcome: StepOutcome, rows: Sequence[Row]) -> None:
        """Log a step whose loss is far above the recent ones."""
        self._log_bad_step("spike", at, outcome, rows, f"loss spike: {outcome.loss:.4f}")

    def log_stopped(self, step: int, reason: str) -> None:
        """Write the results and log that the run stops on request, with its state saved."""
        self.write_results()
        text = f"{reason}: saved at step {step}; the same command resumes"
        self.loggers.event("stopped", step, text)

    def profile_step(self) -> None:
        """Start, continue or write the profiler trace, if one was requested."""
        if self._profiler.active:
            self._profile(self._profiler.step)

    def write_results(self) -> None:
        """Write results.json on rank 0."""
        folder = self._run.folder
        self.loggers.attempt(folder / "results.json", lambda: self.results.write(folder))

    def close(self) -> None:
        """Write an unfinished trace, close the loggers, stop timing collectives."""
        self._profile(self._profiler.close)
        self.loggers.close()
        self._collective_timer.close()

    def _profile(self, action: Callable[[], object]) -> None:
        """Run an action of the profiler and log the trace that it writes."""
        traces: list[object] = []
        self.loggers.attempt(self._run.folder / "profile", lambda: traces.append(action()))
        for trace in filter(None, traces):
            self.loggers.message(f"profiler trace: {trace}")

    def _log_interval(self, at: StepPlan, interval: ClosedInterval) -> None:
        record = interval_record(
            self._run,
            at,
            interval,
            devices=self._ranks.host_group.world_size,
            peak_flops=self._peak_flops,
            recent_rate=self._rate.tokens_per_second,
        )
        if interval.losses_for_languages is not None:
            for tag, values in language_distributions(record).items():
                self.loggers.histogram(at.step + 1, tag, values)
        self.loggers.record(record)
        tags = training_tags(
            record,
            settings=step_settings(self._run.recipe, self._run.plan, at.step).scalars(),
            optimizer_metrics=interval.outcome.report.metrics,
        )
        self.loggers.log(at.step + 1, tags)

    def _log_bad_step(
        self, kind: str, at: StepPlan, outcome: StepOutcome, rows: Sequence[Row], what: str
    ) -> None:
        """Log an event with the rows of the global batch, their documents and languages."""
        own = describe_rows(rows, outcome, self._run.table)
        # The ranks of a tensor group have the same rows.
        gathered = self._ranks.host_group.gather(own)[:: self._ranks.grid.tensor.size]
        batch = sorted((row for part in gathered for row in part), key=lambda row: row["row"])
        self.loggers.event(
            kind,
            at.step,
            f"step {at.step}: {what} ({describe_batch(batch)})",
            loss=outcome.loss if math.isfinite(outcome.loss) else str(outcome.loss),
            rows=batch,
        )

    def _validate(self, step: int, phase: PhasePlan) -> dict[Objective, Losses]:
        """Measure the held-out losses with the phase's rotary bases, once per step and bases."""
        settings = self._run.recipe.phases[phase.index]
        rotary_bases = settings.rotary_bases
        if self._last_validation is not None:
            last_step, last_bases, known = self._last_validation
            if (last_step, last_bases) == (step, rotary_bases):
                return known
        begin = time.perf_counter()
        losses: dict[Objective, Losses] = {}
        with self.step_timer.paused():
            for objective, validator in self._validators.items():
                found = validator.validate(
                    self._engine.module,
                    rotary_bases,
                    heartbeat=lambda: self._ranks.heartbeat(step, Activity.VALIDATE),
                )
                losses[objective] = Losses.of(found, self._run.table)
        seconds = time.perf_counter() - begin
        self.interval.exclude(seconds)
        self._last_validation = (step, rotary_bases, losses)
        causal = {"causal": losses["causal"].model_dump()} if "causal" in losses else {}
        self.loggers.event(
            "held-out",
            step,
            held_out_text(step, losses, settings.objective),
            phase=phase.name,
            seconds=round(seconds, 3),
            **losses["masked"].model_dump(),
            **causal,
        )
        self.loggers.log(step, validation_tags(losses))
        return losses
