"""Losses of a run at its checkpoints, from its log and results."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbert.hub.publishing.publication import CheckpointLosses
from mmbert.training.metrics.results import Results

_RESTARTS = ("start", "rollback")


@dataclass(frozen=True)
class RunLosses:
    """Losses of a run that no later restart or rollback has made void."""

    trained: dict[int, float | None]
    """Step → mean over the interval that ends there."""
    measured: dict[int, dict[str, Any]]
    """Step → event of the held-out loss."""
    unigram: float | None

    def at(self, step: int) -> CheckpointLosses:
        """Return the losses that hold for the checkpoint of `step`: the last ones up to it."""
        trained = max((known for known in self.trained if known <= step), default=None)
        last = max((known for known in self.measured if known <= step), default=None)
        held_out = {} if last is None else self.measured[last]
        return CheckpointLosses(
            training=None if trained is None else self.trained[trained],
            held_out_step=last,
            held_out=_number(held_out.get("overall")),
            tiers=_numbers(held_out.get("tiers")),
            languages=_numbers(held_out.get("languages")),
            unigram=self.unigram,
        )


def read_losses(run: Path) -> RunLosses:
    """Read `run`/log.jsonl and results.json; what is missing there is missing in the result."""
    trained: dict[int, float | None] = {}
    measured: dict[int, dict[str, Any]] = {}
    for record in _records(run / "log.jsonl"):
        step, event = record.get("step"), record.get("event")
        if not isinstance(step, int):
            continue
        if event in _RESTARTS:
            trained = {known: loss for known, loss in trained.items() if known <= step}
            measured = {known: losses for known, losses in measured.items() if known <= step}
        elif event == "held-out":
            measured[step] = record
        elif event is None:
            trained[step] = _number(record.get("loss"))
    results = Results.read(run)
    unigram = results.unigram if results is not None else None
    return RunLosses(trained, measured, None if unigram is None else unigram.overall)


def _records(log: Path) -> Iterator[dict[str, Any]]:
    if not log.is_file():
        return
    with log.open("rb") as lines:
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:  # cut short by a full disk
                continue
            if isinstance(record, dict):
                yield record


def _number(value: object) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None  # type: ignore[arg-type]


def _numbers(values: object) -> dict[str, float]:
    found = values.items() if isinstance(values, dict) else ()
    numbers = {str(name): _number(value) for name, value in found}
    return {name: value for name, value in numbers.items() if value is not None}
