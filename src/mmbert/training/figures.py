"""The figures of a log line: how the data stand, and how fast it goes."""

import numpy as np

from mmbert.schedule import PhasePlan, StepPlan
from mmbert.training.interval import IntervalSums
from mmbert.training.session import Session

MEBIBYTE = 1 << 20


def data_figures(session: Session, at: StepPlan) -> dict[str, float | None]:
    """Realised shares against wanted ones, and epochs, since the run began."""
    realised = session.component_tokens
    wanted = session.table.wanted_tokens(at)
    shares = realised / max(1.0, realised.sum())
    wanted_shares = wanted / max(1.0, wanted.sum())
    epochs = realised / np.maximum(1, session.table.train_tokens)
    return {
        "share_error_max": float(np.abs(shares - wanted_shares).max()),
        "epochs_max": float(epochs.max()),
        "epochs_median": float(np.median(epochs[realised > 0])) if realised.any() else 0.0,
    }


def language_figures(session: Session, at: StepPlan) -> dict[str, dict[str, float]]:
    """Per language: its share of the tokens so far, the share wanted, and epochs."""
    table, realised = session.table, session.component_tokens
    wanted = table.by_language(table.wanted_tokens(at))
    seen, one_epoch = table.by_language(realised), table.by_language(table.train_tokens)
    all_seen, all_wanted = max(1, sum(seen.values())), max(1, sum(wanted.values()))
    names = sorted(seen.keys() | wanted.keys())
    return {
        "share_by_language": {name: seen.get(name, 0) / all_seen for name in names},
        "wanted_share_by_language": {name: wanted.get(name, 0) / all_wanted for name in names},
        "epochs_by_language": {name: seen.get(name, 0) / one_epoch[name] for name in names},
    }


def speed_figures(
    session: Session, at: StepPlan, phase_plan: PhasePlan, sums: IntervalSums
) -> dict[str, object]:
    """Rates, utilisation, where the time went, memory, and the time left at the recent rate."""
    devices = session.control.world_size
    seen = at.tokens_before + at.rows * session.plan.row_tokens
    nominal_rate = sums.row_tokens / sums.seconds
    session.recent_rate = (
        nominal_rate
        if session.recent_rate is None
        else 0.7 * session.recent_rate + 0.3 * nominal_rate
    )
    peak = session.peak_flops
    left_in_phase = phase_plan.first_token + phase_plan.tokens - seen
    return {
        "tokens_per_second": sums.tokens / sums.seconds,
        "tokens_per_second_per_device": sums.tokens / sums.seconds / devices,
        "mfu": sums.flops / (sums.seconds * devices * peak) if peak else None,
        "model_flops_per_second": sums.flops / sums.seconds,
        "time": {name: round(value, 4) for name, value in sums.time_split.items()},
        "interval_seconds": sums.seconds,
        "peak_memory_mib": sums.peak_memory_bytes / MEBIBYTE,
        "seconds_left_in_phase": left_in_phase / max(1.0, session.recent_rate),
        "seconds_left": (session.plan.tokens - seen) / max(1.0, session.recent_rate),
    }
