"""Data and throughput metrics of a log line."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmbert.data.sampling.component_table import ComponentTable
from mmbert.schedule import StepPlan
from mmbert.training.metrics.interval_metrics import IntervalSums

MEBIBYTE = 1 << 20
# The weight of a step halves every 20 steps.
RATE_DECAY = 0.5 ** (1 / 20)


def data_metrics(
    table: ComponentTable, at: StepPlan, trained: npt.NDArray[np.float64]
) -> dict[str, float | None]:
    """Compute the largest error of the token shares, and epochs, since the run began.

    Args:
        trained: float64 [components], tokens trained on until the end of step `at`.
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
    """Compute each language's share of the tokens so far, its planned share, and its epochs.

    Args:
        trained: float64 [components], tokens trained on until the end of step `at`.
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


@dataclass
class SmoothedRate:
    """Nominal tokens per second of recent steps, to estimate the remaining time.

    The exponential averages of tokens and seconds limit the effect of a single slow step.
    """

    tokens: float = 0.0
    seconds: float = 0.0

    def update(self, tokens: int, seconds: float) -> None:
        """Add a step of `tokens` nominal tokens."""
        self.tokens = RATE_DECAY * self.tokens + tokens
        self.seconds = RATE_DECAY * self.seconds + seconds

    @property
    def tokens_per_second(self) -> float:
        """Smoothed rate; 0 before the first step."""
        return self.tokens / self.seconds if self.seconds else 0.0


def throughput_metrics(
    sums: IntervalSums,
    *,
    devices: int,
    peak_flops: float | None,
    recent_rate: float,
    phase_tokens_left: int,
    tokens_left: int,
) -> dict[str, object]:
    """Compute rates, MFU, time per region, memory and remaining time.

    Args:
        peak_flops: peak FLOP/s of a device; None if unknown.
        recent_rate: nominal tokens per second, for the remaining time.
        phase_tokens_left, tokens_left: nominal tokens left to train in the phase and in the run.
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
