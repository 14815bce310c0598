"""Threshold of a study, written to ablations.json before the runs that it decides over."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from mmbert.ablation.ablations import FULL
from mmbert.ablation.comparison import RESULT_NAME, Comparison, Threshold
from mmbert.ablation.runs import Run
from mmbert.errors import ArgumentError
from mmbert.schedule import training_plan


def keep_threshold(
    given: float | None, runs: Sequence[Run], folder: Path, mask_ratio: float
) -> Threshold | None:
    """Return the threshold of the study in `folder`; write one that is given for the first time.

    Runs of the full recipe may precede it, since their spread is what it follows from.

    Args:
        given: in nats; None: the one of an earlier call, if any.

    Raises:
        ArgumentError: an earlier call wrote another, or a run of an ablation has begun without one.
    """
    earlier = Comparison.read(folder)
    if earlier is not None and earlier.threshold is not None:
        kept = earlier.threshold
        if given not in (None, kept.nats):
            raise ArgumentError(
                f"--threshold {given:g}: {folder / RESULT_NAME} has {kept.nats:g}, written "
                f"{kept.written}, before its runs",
                remedy="leave the option out, or start another study in another --output",
            )
        return kept
    if given is None:
        return None
    begun = [run.title for run in runs if run.ablation.name != FULL and run.has_begun()]
    if begun:
        raise ArgumentError(
            f"--threshold {given:g} comes too late: {begun[0]} has begun",
            remedy="a threshold is set before the runs that it decides over: leave the option out, "
            "or give another --output",
        )
    written = datetime.now(UTC).isoformat(timespec="seconds")
    threshold = Threshold(nats=given, written=written)
    full = next(run.recipe for run in runs if run.ablation.name == FULL)
    plan = training_plan(full)
    if earlier is None:
        earlier = Comparison(
            recipe=full.name, steps=plan.steps, tokens=plan.tokens, mask_ratio=mask_ratio
        )
    earlier.model_copy(update={"threshold": threshold}).write(folder)
    return threshold
