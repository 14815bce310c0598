"""The figures of a log line: how the data stand, and how fast it goes."""

import numpy as np

from mmbert.data.sampling.component_table import ComponentTable
from mmbert.schedule import PhasePlan, StepPlan, TrainingPlan
from mmbert.training.metrics.interval_metrics import IntervalSums

MEBIBYTE = 1 << 20


def data_figures(
    table: ComponentTable, realised: np.ndarray, at: StepPlan
) -> dict[str, float | None]:
    """Realised shares against wanted ones, and epochs, since the run began.

    `realised`: float64 [C], the tokens of each component so far.
    """
    wanted = table.wanted_tokens(at)
    shares = realised / max(1.0, realised.sum())
    wanted_shares = wanted / max(1.0, wanted.sum())
    epochs = realised / np.maximum(1, table.train_tokens)
    return {
        "share_error_max": float(np.abs(shares - wanted_shares).max()),
        "epochs_max": float(epochs.max()),
        "epochs_median": float(np.median(epochs[realised > 0])) if realised.any() else 0.0,
    }


def language_figures(
    table: ComponentTable, realised: np.ndarray, at: StepPlan
) -> dict[str, dict[str, float]]:
    """Per language: its share of the tokens so far, the share wanted, and epochs."""
    wanted = table.by_language(table.wanted_tokens(at))
    seen, one_epoch = table.by_language(realised), table.by_language(table.train_tokens)
    all_seen, all_wanted = max(1, sum(seen.values())), max(1, sum(wanted.values()))
    names = sorted(seen.keys() | wanted.keys())
    return {
        "share_by_language": {name: seen.get(name, 0) / all_seen for name in names},
        "wanted_share_by_language": {name: wanted.get(name, 0) / all_wanted for name in names},
        "epochs_by_language": {name: seen.get(name, 0) / one_epoch[name] for name in names},
    }


def smoothed_rate(before: float | None, sums: IntervalSums) -> float:
    """Tokens a second, those that the schedule counts: the rate `before` moved towards the
    interval's."""
    rate = sums.row_tokens / sums.seconds
    return rate if before is None else 0.7 * before + 0.3 * rate


def speed_figures(
    plan: TrainingPlan,
    at: StepPlan,
    phase_plan: PhasePlan,
    sums: IntervalSums,
    *,
    recent_rate: float,
    devices: int,
    peak_flops: float | None,
) -> dict[str, object]:
    """Rates, utilisation, where the time went, memory, and the time left at the recent rate."""
    seen = at.tokens_before + at.rows * plan.row_tokens
    left_in_phase = phase_plan.first_token + phase_plan.tokens - seen
    return {
        "tokens_per_second": sums.tokens / sums.seconds,
        "tokens_per_second_per_device": sums.tokens / sums.seconds / devices,
        "mfu": sums.flops / (sums.seconds * devices * peak_flops) if peak_flops else None,
        "model_flops_per_second": sums.flops / sums.seconds,
        "time": {name: round(value, 4) for name, value in sums.time_split.items()},
        "interval_seconds": sums.seconds,
        "peak_memory_mib": sums.peak_memory_bytes / MEBIBYTE,
        "seconds_left_in_phase": left_in_phase / max(1.0, recent_rate),
        "seconds_left": (plan.tokens - seen) / max(1.0, recent_rate),
    }
