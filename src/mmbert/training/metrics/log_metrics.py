"""The figures of a log line: how the data stand, and how fast it goes."""

import numpy as np
import numpy.typing as npt

from mmbert.data.sampling.component_table import ComponentTable
from mmbert.schedule import StepPlan
from mmbert.training.metrics.interval_metrics import IntervalSums

MEBIBYTE = 1 << 20


def data_metrics(
    table: ComponentTable, at: StepPlan, trained: npt.NDArray[np.float64]
) -> dict[str, float | None]:
    """Realised shares against wanted ones, and epochs, since the run began.

    `trained` [C]: tokens trained on of each component by the end of step `at`.
    """
    planned = table.scheduled_tokens(at)
    shares = trained / max(1.0, trained.sum())
    planned_shares = planned / max(1.0, planned.sum())
    epochs = trained / np.maximum(1, table.train_tokens)
    return {
        "share_error_max": float(np.abs(shares - planned_shares).max()),
        "epochs_max": float(epochs.max()),
        "epochs_median": float(np.median(epochs[trained > 0])) if trained.any() else 0.0,
    }


def language_metrics(
    table: ComponentTable, at: StepPlan, trained: npt.NDArray[np.float64]
) -> dict[str, dict[str, float]]:
    """Per language: its share of the tokens so far, the share wanted, and epochs.

    `trained` [C]: tokens trained on of each component by the end of step `at`.
    """
    planned = table.by_language(table.scheduled_tokens(at))
    seen, one_epoch = table.by_language(trained), table.by_language(table.train_tokens)
    all_seen, all_planned = max(1, sum(seen.values())), max(1, sum(planned.values()))
    names = sorted(seen.keys() | planned.keys())
    return {
        "share_by_language": {name: seen.get(name, 0) / all_seen for name in names},
        "wanted_share_by_language": {name: planned.get(name, 0) / all_planned for name in names},
        "epochs_by_language": {name: seen.get(name, 0) / one_epoch[name] for name in names},
    }


def smoothed_rate(before: float | None, sums: IntervalSums) -> float:
    """Nominal tokens a second lately, given the rate before this interval (None: there is none)."""
    nominal_rate = sums.row_tokens / sums.seconds
    return nominal_rate if before is None else 0.7 * before + 0.3 * nominal_rate


def throughput_metrics(
    sums: IntervalSums,
    *,
    devices: int,
    peak_flops: float | None,
    recent_rate: float,
    phase_tokens_left: int,
    tokens_left: int,
) -> dict[str, object]:
    """Rates, utilisation, where the time went, memory, and the time left at the recent rate.

    Args:
        peak_flops: FLOP/s that a device can do; None where that is not known.
        recent_rate: nominal tokens a second, for the time left.
        left_in_phase, left: nominal tokens still to come in the phase and in the run.
    """
    return {
        "tokens_per_second": sums.tokens / sums.seconds,
        "tokens_per_second_per_device": sums.tokens / sums.seconds / devices,
        "mfu": sums.flops / (sums.seconds * devices * peak_flops) if peak_flops else None,
        "model_flops_per_second": sums.flops / sums.seconds,
        "time": {name: round(value, 4) for name, value in sums.time_split.items()},
        "interval_seconds": sums.seconds,
        "peak_memory_mib": sums.peak_memory_bytes / MEBIBYTE,
        "seconds_left_in_phase": phase_tokens_left / max(1.0, recent_rate),
        "seconds_left": tokens_left / max(1.0, recent_rate),
    }
