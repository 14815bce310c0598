"""Record of a logging interval, computed on rank 0 from sums over all ranks."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmbert.data.sampling.loss_table import LossTable
from mmbert.schedule import StepPlan, step_settings
from mmbert.training.metrics.interval_metrics import IntervalSums
from mmbert.training.metrics.log_metrics import (
    data_metrics,
    language_metrics,
    throughput_metrics,
)
from mmbert.training.run_config import RunConfig
from mmbert.training.train_step import StepOutcome


@dataclass(frozen=True)
class ClosedInterval:
    """Sums over all ranks of the steps since the last log line."""

    sums: IntervalSums
    losses: LossTable
    outcome: StepOutcome
    """Outcome of the last step whose update was applied."""
    losses_for_languages: LossTable | None
    """Losses since the last line with per-language metrics; None if this line has none."""
    own_work: dict[str, float]
    """Comparison of the ranks' own work, by key; empty if none is due (see `SlowNodes`)."""


def interval_record(
    run: RunConfig,
    at: StepPlan,
    interval: ClosedInterval,
    *,
    devices: int,
    peak_flops: float | None,
    recent_rate: float,
) -> dict[str, Any]:
    """Compute the record, with the keys of `log.jsonl`, of an interval that ends with step `at`.

    Args:
        peak_flops: peak FLOP/s of a device; None if unknown.
        recent_rate: nominal tokens per second of recent steps.
    """
    phase_plan = run.plan.phases[at.phase_index]
    sums, report = interval.sums, interval.outcome.report
    record = {
        "step": at.step + 1,
        "steps": run.plan.steps,
        "phase": phase_plan.name,
        "tokens": at.tokens_after,
        "loss": interval.losses.mean(),
        "step_loss": interval.outcome.loss,
        **step_settings(run.recipe, run.plan, at.step).scalars(),
        "gradient_norm": float(report.gradient_norm),
        **{name: float(value) for name, value in report.metrics.items()},
        "packing_efficiency": sums.packing_efficiency,
        "rows_per_step": at.rows,
        **data_metrics(run.table, at, sums.trained_tokens),
        **throughput_metrics(
            sums,
            devices=devices,
            peak_flops=peak_flops,
            recent_rate=recent_rate,
            phase_tokens_left=phase_plan.first_token + phase_plan.tokens - at.tokens_after,
            tokens_left=run.plan.tokens - at.tokens_after,
        ),
        **interval.own_work,
        "loss_by_tier": interval.losses.by_tier(run.table),
    }
    if interval.losses_for_languages is not None:
        record["loss_by_language"] = interval.losses_for_languages.by_language(run.table)
        record |= language_metrics(run.table, at, sums.trained_tokens)
    return record


def language_distributions(record: dict[str, Any]) -> dict[str, npt.NDArray[np.float64]]:
    """Return each language's loss, ratio of actual to planned share, and epochs, by tag."""
    planned = record["wanted_share_by_language"]
    shares = {
        name: share / planned[name]
        for name, share in record["share_by_language"].items()
        if planned[name] > 0
    }
    values = {
        "languages/loss": record["loss_by_language"],
        "languages/share_over_wanted": shares,
        "languages/epochs": record["epochs_by_language"],
    }
    return {tag: np.array(list(by_language.values())) for tag, by_language in values.items()}
