"""Losses and weights of a run that was disturbed, against those of the undisturbed one."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from mmbert.checkpoint.store import list_checkpoints, read_parameters
from mmbert.errors import UserError

GPU_TOLERANCE = 1e-3
"""Largest difference of a loss or weight on GPUs, relative or absolute, whichever is larger."""


@dataclass(frozen=True)
class FinalState:
    """Loss and gradient norm by step, and the folder of the last checkpoint."""

    losses: dict[int, tuple[float, float]]
    checkpoint: Path


def read_final_state(run: Path) -> FinalState:
    """Read the state of a finished run; of a repeated step the last one."""
    losses = {}
    for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if "step_loss" in record:
            losses[record["step"]] = (record["step_loss"], record["gradient_norm"])
    return FinalState(losses, list_checkpoints(run / "checkpoints")[-1])


def find_difference(run: Path, undisturbed: FinalState, *, tolerance: float) -> str | None:
    """Return the first difference in words; None if losses and weights are the same.

    Args:
        tolerance: largest difference; 0: the same to the bit.
    """
    try:
        ours = read_final_state(run)
        if ours.losses.keys() != undisturbed.losses.keys():
            return f"{len(ours.losses)} of {len(undisturbed.losses)} steps are in the log"
        for step, figures in sorted(undisturbed.losses.items()):
            for name, own, theirs in zip(
                ("loss", "gradient norm"), ours.losses[step], figures, strict=True
            ):
                if not _same(own, theirs, tolerance):
                    return f"the {name} of step {step} is {own!r}, undisturbed {theirs!r}"
        if ours.checkpoint.name != undisturbed.checkpoint.name:
            return f"the last checkpoint is {ours.checkpoint.name}"
        wanted = dict(read_parameters(undisturbed.checkpoint))
        for name, weight in read_parameters(ours.checkpoint):
            difference = float((weight - wanted.pop(name)).abs().max())
            if not difference <= tolerance:
                return f"{name} differs by up to {difference:.1e}"
    except (UserError, OSError, ValueError, KeyError, IndexError) as error:
        return f"the result cannot be read: {error}".partition("\n")[0]
    return f"{sorted(wanted)[0]} is missing" if wanted else None


def _same(own: float, theirs: float, tolerance: float) -> bool:
    return own == theirs or math.isclose(own, theirs, rel_tol=tolerance, abs_tol=tolerance)
