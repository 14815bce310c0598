"""Repetition of steps that went wrong, which tells faults of a host from those of data or numerics.

Masks and dropout depend on the row alone, so that a repetition computes exactly the same; a run
that only measures drops its update and changes no bit. Losses of ranks are exchanged only here:
an ordinary step sends nothing more.
"""

import math
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from mmbert.data.loading.rows import Row
from mmbert.schedule import StepPlan, step_settings
from mmbert.training.determinism import repeats_to_the_bit
from mmbert.training.fault_tolerance.hangs.watchdog import Activity
from mmbert.training.fault_tolerance.loop_requests import LoopRequests
from mmbert.training.fault_tolerance.step_checks import FILE_NAME, Spike, StepChecks
from mmbert.training.fault_tolerance.step_comparison import (
    EXACT,
    RankLosses,
    StepRun,
    Tolerance,
    Verdict,
    judge,
    largest_differences,
)
from mmbert.training.metrics.loggers.container import LoggerContainer
from mmbert.training.run_config import RunConfig
from mmbert.training.train_step import StepOutcome, StepRunner
from mmbert.training.trainer_parts.moved_rows import rows_of_another_host
from mmbert.training.trainer_parts.ranks import Ranks
from mmbert.training.trainer_parts.start_details import device_name
from mmbert.training.trainer_parts.wrong_results import report_wrong_result

# Allowed difference, in multiples of the largest one between repetitions of a sound step.
TOLERANCE_FACTOR = 4
SOUND_REPETITIONS = 3


class Repetitions:
    """Runs steps again and compares the results. All ranks call every method."""

    def __init__(
        self,
        run: RunConfig,
        ranks: Ranks,
        runner: StepRunner,
        loggers: LoggerContainer,
        device: torch.device,
    ) -> None:
        """Read what earlier starts have kept; collective."""
        self._run, self._ranks, self._runner, self._loggers = run, ranks, runner, loggers
        self._exact = repeats_to_the_bit(run.recipe, device)
        self._path = run.folder / FILE_NAME
        grid, parallel = ranks.grid, run.recipe.parallel
        self._setup = (
            f"{grid.data.size} data × {grid.tensor.size} tensor ranks, ZeRO {parallel.zero_stage}, "
            f"{run.recipe.precision}, {device_name(device)}"
        )
        self._checks: StepChecks = ranks.host_group.from_rank_zero(
            lambda: StepChecks.read(self._path)
        )

    # Sound steps

    def measure_tolerance(self, at: StepPlan, rows: Sequence[Row]) -> None:
        """Measure how much repetitions of a sound step differ, at the first of a phase and setup.

        Nothing to do where they must agree to the bit.
        """
        key = self._tolerance_key(at)
        if self._exact or key in self._checks.tolerances:
            return
        runs = [self._collect(rows, self._measure(at, rows)) for _ in range(SOUND_REPETITIONS)]
        if not all(math.isfinite(run.gradient_norm) for run in runs):
            return  # not a sound step: the next one is measured
        found = largest_differences(runs)
        tolerances = {**self._checks.tolerances, key: found}
        self._keep({"tolerances": tolerances})
        self._loggers.message(
            f"{SOUND_REPETITIONS} runs of step {at.step} differ by at most {found.loss:.1e} of a "
            f"row's loss and {found.gradient_norm:.1e} of the gradient norm"
        )

    # Non-finite steps

    def repeat(
        self, at: StepPlan, rows: Sequence[Row], first: StepOutcome
    ) -> tuple[StepOutcome, Verdict]:
        """Run a non-finite step again, whose update was dropped, and say who was wrong.

        First each rank repeats its rows, then it computes those of another rank. If one of the two
        was finite, the step runs once more and its update is applied, with which the run is as if
        the fault had not been.

        Returns:
            The outcome that counts, and the verdict.
        """
        runs = [self._collect(rows, first)]
        if self._ranks.grid.data.size == 1:
            outcome = self._train(at, rows)
            runs.append(self._collect(rows, outcome))
        else:
            outcome = self._measure(at, rows)
            runs.append(self._collect(rows, outcome))
            moved = rows_of_another_host(
                rows, self._data_hosts(runs[0]), self._ranks.grid, self._ranks.host_group
            )
            elsewhere = self._measure(at, moved)
            runs.append(self._collect(moved, elsewhere, moved=True))
            if outcome.report.finite or elsewhere.report.finite:
                outcome = self._train(at, rows)
                runs.append(self._collect(rows, outcome))
        verdict = judge(runs, self._tolerance(at))
        if not verdict.repeats:
            result = (
                "finite when run again: that update was applied"
                if outcome.report.finite
                else "finite where other ranks run it"
            )
            self._report(at.step, f"non-finite loss or gradient, but {result}", verdict)
        # What was asked for during the step's first run is done after it.
        counts = first.request_counts
        return replace(outcome, requests=first.requests, request_counts=counts), verdict

    # Spikes

    def accepts(self, step: int) -> bool:
        """Whether the spike at `step` is known and stays, where steps run again for another one."""
        return bool(self._checks.spikes) and step in self._checks.accepted_spikes

    def wants_repetition(self, step: int) -> bool:
        """Whether the spike at `step` is new, and `guard.rollback_limit` allows its repetition."""
        limit = self._run.recipe.guard.rollback_limit
        return self._pending(step) is None and self._checks.repeated_spikes < limit

    def begin(self, at: StepPlan, first_step: int, rows: Sequence[Row], spike: StepOutcome) -> None:
        """Keep what a spike showed, before its steps run again from the state of `first_step`."""
        run = self._collect(rows, spike)
        kept = Spike(step=at.step, first_step=first_step, setup=self._setup, run=run)
        earlier = [
            other.model_copy(update={"first_step": min(first_step, other.first_step)})
            for other in self._checks.spikes
        ]
        count = self._checks.repeated_spikes + 1
        self._keep({"spikes": (*earlier, kept), "repeated_spikes": count})

    def compare_spike(
        self, at: StepPlan, rows: Sequence[Row], outcome: StepOutcome, *, spikes: bool
    ) -> bool:
        """Compare a step with its spike before the repetition.

        Args:
            spikes: whether the step's loss is a spike again.

        Returns:
            Whether the spike at this step was known before.
        """
        spike = self._pending(at.step)
        if spike is None:
            return self.accepts(at.step)
        again = self._collect(rows, outcome)
        verdict = self._judge_spike(at, spike, again, spikes=spikes)
        if verdict.repeats:
            text = f"step {at.step}: the loss spike repeats: data or numerics, not a node"
            self._loggers.event("repetition", at.step, text)
        else:
            what = f"loss {spike.run.loss:.4f}, but {again.loss:.4f} when run again"
            self._report(at.step, what, verdict)
        if not spikes:
            self.end(at.step)
        return True

    def end(self, step: int) -> None:
        """Forget the spike at `step`, which is no longer one."""
        if self._pending(step) is not None:
            self._keep({"spikes": self._spikes_without(step)})

    def accept(self, step: int) -> None:
        """Leave the spike at `step` as it is, also when the step runs again for another spike."""
        accepted = tuple(sorted({*self._checks.accepted_spikes, step}))
        self._keep({"spikes": self._spikes_without(step), "accepted_spikes": accepted})

    def forget_from(self, step: int) -> None:
        """Forget spikes at `step` and later, whose data is about to change."""
        spikes = tuple(spike for spike in self._checks.spikes if spike.step < step)
        accepted = tuple(known for known in self._checks.accepted_spikes if known < step)
        self._keep({"spikes": spikes, "accepted_spikes": accepted})

    def _pending(self, step: int) -> Spike | None:
        return next((spike for spike in self._checks.spikes if spike.step == step), None)

    def _spikes_without(self, step: int) -> tuple[Spike, ...]:
        return tuple(spike for spike in self._checks.spikes if spike.step != step)

    def _judge_spike(self, at: StepPlan, spike: Spike, again: StepRun, *, spikes: bool) -> Verdict:
        """Judge a spike by its repetition, which is trusted.

        Without determinism, the differences of all steps that ran again add up: a loss that is a
        spike again repeats, whatever its digits.
        """
        same_setup = spike.setup == self._setup
        if spikes and not (self._exact and same_setup):
            return Verdict(True)
        if not same_setup:
            return Verdict(False)
        steps = 1 + spike.step - spike.first_step
        verdict = judge((spike.run, again), self._tolerance(at).times(steps))
        if verdict.repeats and not spikes:
            return Verdict(False, hosts=again.hosts)
        return verdict

    # Runs of a step

    def _train(self, at: StepPlan, rows: Sequence[Row]) -> StepOutcome:
        return self._again(at, rows, apply_update=True)

    def _measure(self, at: StepPlan, rows: Sequence[Row]) -> StepOutcome:
        return self._again(at, rows, apply_update=False)

    def _again(self, at: StepPlan, rows: Sequence[Row], *, apply_update: bool) -> StepOutcome:
        self._ranks.heartbeat(at.step, Activity.REPEAT_STEP)
        settings = step_settings(self._run.recipe, self._run.plan, at.step)
        return self._runner.run(
            rows, settings, pending_requests=LoopRequests, apply_update=apply_update
        )

    def _collect(
        self, rows: Sequence[Row], outcome: StepOutcome, *, moved: bool = False
    ) -> StepRun:
        """Gather the losses of all ranks; collective."""
        grid = self._ranks.grid
        losses = outcome.row_losses.tolist()
        own = RankLosses(
            rank=grid.rank,
            tensor_rank=grid.tensor.rank,
            host=socket.gethostname(),
            rows={row.index: loss for row, loss in zip(rows, losses, strict=True)},
        )
        return StepRun(
            loss=outcome.loss,
            gradient_norm=outcome.report.gradient_norm,
            ranks=tuple(self._ranks.host_group.gather(own)),
            moved=moved,
        )

    def _data_hosts(self, run: StepRun) -> list[str]:
        return [entry.host for entry in run.ranks][:: self._ranks.grid.tensor.size]

    def _tolerance_key(self, at: StepPlan) -> str:
        return f"{self._run.plan.phases[at.phase_index].name}: {self._setup}"

    def _tolerance(self, at: StepPlan) -> Tolerance:
        found = self._checks.tolerances.get(self._tolerance_key(at), EXACT)
        return EXACT if self._exact else found.times(TOLERANCE_FACTOR)

    def _report(self, step: int, what: str, verdict: Verdict) -> None:
        report_wrong_result(self._loggers, self._run.folder, step, what, verdict)

    def _keep(self, changes: Mapping[str, object]) -> None:
        self._checks = self._checks.model_copy(update=changes)
        self._loggers.attempt(self._path, lambda: self._checks.write(self._path))
