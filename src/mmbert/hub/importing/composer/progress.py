"""Position of a Composer checkpoint in its training: tokens and batches so far."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mmbert.errors import CheckpointError


@dataclass(frozen=True)
class Progress:
    """Tokens of the training so far.

    Attributes:
        tokens: tokens as Composer counted them, or as given.
        counted_from: start of the phase or of the run.
        batch: batches since the same start; None if unknown.
        source: origin of the numbers, for the user.
    """

    tokens: int
    counted_from: Literal["phase", "run"]
    batch: int | None
    source: str


def read_progress(
    path: Path, state: Mapping[str, Any], optimizer_steps: int, tokens: int | None
) -> Progress:
    """Return the position of the checkpoint at `path`.

    Composer's time is reset to 0 at the start of a phase (`reset_time`), or runs on through all
    phases. The optimizer's step always runs on: both are equal if time was never reset.

    Args:
        state: state of the checkpoint.
        optimizer_steps: steps of the optimizer.
        tokens: tokens of the phase so far, given by the user; replaces the file's.

    Raises:
        CheckpointError: the file has no timestamp, or one that is ahead of the optimizer, and
            `tokens` is None.
    """
    timestamp = _timestamp(state)
    if tokens is not None:
        batch = timestamp["batch"] if timestamp else None
        return Progress(tokens, "phase", batch, "given by --tokens, counted from the phase's start")
    if timestamp is None:
        raise CheckpointError(
            f"{path} has no timestamp, so that its tokens are unknown (optimizer step"
            f" {optimizer_steps:,})",
            remedy="give the tokens of its phase so far: --tokens N (the batch in the file's name"
            " times the tokens of a batch); or import the weights alone: --weights-only",
        )
    batch = timestamp["batch"]
    if batch > optimizer_steps:
        raise CheckpointError(
            f"{path} is at batch {batch:,}, but its optimizer at step {optimizer_steps:,}: the"
            " optimizer was started anew while time ran on",
            remedy="give the tokens of its phase so far: --tokens N",
        )
    if batch == optimizer_steps:
        how = "counted from the start of the run: time was never reset (batch = optimizer step)"
        return Progress(timestamp["token"], "run", batch, how)
    how = (
        f"counted from the start of the phase: time was reset (batch {batch:,}, optimizer step"
        f" {optimizer_steps:,})"
    )
    return Progress(timestamp["token"], "phase", batch, how)


def _timestamp(state: Mapping[str, Any]) -> dict[str, int] | None:
    entry = state.get("timestamp")
    entry = entry.get("Timestamp", entry) if isinstance(entry, Mapping) else None
    if not isinstance(entry, Mapping):
        return None
    found = {key: entry.get(key) for key in ("token", "batch")}
    numbers = {key: value for key, value in found.items() if type(value) is int and value >= 0}
    return numbers if len(numbers) == len(found) else None
