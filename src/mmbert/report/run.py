"""A run as its folder has it, and the figures that several parts of the page use."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from mmbert.data.shards.tokenizer_description import read_tokenizer_description
from mmbert.errors import ArgumentError, UserError
from mmbert.report.run_log import Event, RunLog, as_number, read_log
from mmbert.training.metrics.results import Results

SIGNS_OF_A_RUN = ("log.jsonl", "results.json", "recipe.yaml", "checkpoints")


@dataclass(frozen=True)
class PhaseSpan:
    """The tokens of a phase, as planned."""

    name: str
    first_token: int
    end_token: int


@dataclass(frozen=True)
class HeldOut:
    """A measurement of the held-out loss."""

    step: int
    phase: str
    overall: float | None
    tiers: Mapping[str, float]
    offset: int
    """Position in the log of the event, which has the losses by language."""


@dataclass(frozen=True)
class Run:
    """Contents of a run folder. Parts that are missing are empty, and named in `missing`."""

    label: str
    folder: Path
    log: RunLog
    results: Results | None = None
    recipe_text: str | None = None
    recipe: Mapping[str, Any] | None = None
    fingerprint: str | None = None
    """Of the tokenizer."""
    missing: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the recipe; empty if nothing has it."""
        if self.results is not None:
            return self.results.name
        return str(self.recipe.get("name", "")) if self.recipe else ""

    @property
    def has_causal_phases(self) -> bool:
        """Whether results.json has a phase with objective `causal`."""
        phases = self.results.phases if self.results is not None else []
        return any(phase.objective == "causal" for phase in phases)

    @property
    def tokens(self) -> int:
        """Number of tokens of the completed steps, as far as they were logged."""
        return int(self.log.column("tokens")[-1]) if len(self.log) else 0

    @property
    def step(self) -> int:
        """Number of completed steps, as far as they were logged."""
        return int(self.log.column("step")[-1]) if len(self.log) else 0

    @property
    def planned_steps(self) -> int | None:
        """Number of steps of the whole plan."""
        if self.results is not None and self.results.phases:
            return self.results.phases[-1].end_step
        steps = self.log.column("steps")
        return int(steps[-1]) if len(steps) and np.isfinite(steps[-1]) else None

    @cached_property
    def starts(self) -> list[Event]:
        """All starts, in order."""
        return [event for event in self.log.events if event.kind == "start"]

    @property
    def train_tokens(self) -> dict[str, int]:
        """Tokens of an epoch by language, from the last start that logged them; else empty."""
        for start in reversed(self.starts):
            found = start.details.get("train_tokens_by_language")
            if isinstance(found, dict):
                return {name: n for name, n in found.items() if isinstance(n, int) and n > 0}
        return {}

    @cached_property
    def phases(self) -> list[PhaseSpan]:
        """The planned phases; without results.json, those that the records are of."""
        if self.results is not None:
            ends = np.cumsum([phase.planned_tokens for phase in self.results.phases]).tolist()
            names = [phase.name for phase in self.results.phases]
        else:
            last = {phase: number for number, phase in enumerate(self.log.phases)}
            names, tokens = list(last), self.log.column("tokens")
            ends = [int(tokens[number]) for number in last.values()]
        return [
            PhaseSpan(name, begin, end)
            for name, begin, end in zip(names, [0, *ends], ends, strict=False)
        ]

    @cached_property
    def held_out(self) -> list[HeldOut]:
        """Measurements of the held-out loss that hold, the last of each step and phase."""
        events = [event for event in self.log.events if event.kind == "held-out"]
        found = {}
        for event in self.log.valid(events):
            details = event.details
            overall, tiers = details.get("overall"), details.get("tiers")
            phase = str(details.get("phase", ""))
            found[event.step, phase] = HeldOut(
                step=event.step,
                phase=phase,
                overall=_losses({"": overall}).get(""),
                tiers=_losses(tiers),
                offset=event.offset,
            )
        return sorted(found.values(), key=lambda measured: measured.step)

    @cached_property
    def held_out_by_language(self) -> tuple[dict[str, float], dict[str, float]]:
        """Held-out loss of each language in the first measurement and in the last one."""
        if self.held_out:
            first, last = self.held_out[0], self.held_out[-1]
            if first is last:
                return self._languages_at(first), {}
            return self._languages_at(first), self._languages_at(last)
        phases = self.results.phases if self.results is not None else []
        starts = [phase.held_out_start for phase in phases if phase.held_out_start]
        ends = [phase.held_out_end for phase in phases if phase.held_out_end]
        return (
            starts[0].languages if starts else {},
            ends[-1].languages if ends else {},
        )

    def _languages_at(self, measured: HeldOut) -> dict[str, float]:
        return _losses(self.log.reread(measured.offset).get("languages"))

    @cached_property
    def by_language(self) -> dict[str, dict[str, float]]:
        """Share, planned share and epochs of each language, by key, as last logged."""
        if self.log.language_record is None:
            return {}
        record = self.log.reread(self.log.language_record)
        keys = ("share_by_language", "wanted_share_by_language", "epochs_by_language")
        return {key: _losses(record.get(key)) for key in keys}

    def tokens_at(self, steps: Sequence[int]) -> npt.NDArray[np.float64]:
        """Return the tokens after `steps`, linear between the log's lines and the phases' ends."""
        known: dict[float, float] = {0.0: 0.0}
        if self.results is not None:
            for phase, span in zip(self.results.phases, self.phases, strict=True):
                known[float(phase.end_step)] = float(span.end_token)
        known.update(
            zip(self.log.column("step").tolist(), self.log.column("tokens").tolist(), strict=True)
        )
        at = np.array(sorted(known))
        return np.interp(np.asarray(steps, dtype=np.float64), at, [known[step] for step in at])


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read run folders; each is labelled by its name, or by its path if names repeat.

    Raises:
        ArgumentError: a path is no folder of a run.
    """
    by_path: dict[Path, Path] = {}
    for folder in folders:
        by_path.setdefault(folder.resolve(), folder)
    folders = list(by_path.values())
    for folder in folders:
        _check_is_run(folder)
    names = [folder.resolve().name for folder in folders]
    unique = len(set(names)) == len(names)
    return [
        read_run(folder, name if unique else str(folder))
        for folder, name in zip(folders, names, strict=True)
    ]


def read_run(folder: Path, label: str) -> Run:
    """Read a run folder; see `Run.missing` for what it lacks."""
    missing = []
    log_path = folder / "log.jsonl"
    log = read_log(log_path) if log_path.exists() else None
    if log is None:
        missing.append("no log.jsonl: nothing is drawn over tokens")
        log = RunLog(log_path, {})
    elif not log.lines:
        missing.append("log.jsonl is empty: nothing is drawn over tokens")
    elif not len(log):
        missing.append("log.jsonl has no record of a step yet: nothing is drawn over tokens")
    if log.torn:
        missing.append("the last line of log.jsonl is incomplete and left out")
    if log.broken:
        shown = ", ".join(map(str, log.broken[:5])) + (", …" if len(log.broken) > 5 else "")
        missing.append(
            f"{len(log.broken)} unreadable line{'s' * (len(log.broken) > 1)} of log.jsonl left "
            f"out (line {shown})"
        )
    results = Results.read(folder)
    if results is None:
        state = "unreadable" if (folder / "results.json").exists() else "no"
        missing.append(
            f"{state} results.json: no held-out table, phases as far as the log has them"
        )
    text, recipe = _read_recipe(folder / "recipe.yaml")
    if recipe is None:
        missing.append("no readable recipe.yaml: no recipe")
    fingerprint = _fingerprint(folder / "tokenizer")
    if fingerprint is None:
        missing.append("no tokenizer: whether its losses compare with other runs' is unknown")
    run = Run(label, folder, log, results, text, recipe, fingerprint)
    if run.starts and not all("recipe" in start.details for start in run.starts):
        missing.append(
            "starts in log.jsonl without recipe and versions, as earlier versions wrote them: "
            "no changes between those"
        )
    if len(log) and not run.train_tokens:
        missing.append(
            "log.jsonl has no training tokens by language: no charts over the size of languages"
        )
    return Run(label, folder, log, results, text, recipe, fingerprint, tuple(missing))


def _check_is_run(folder: Path) -> None:
    remedy = "name the --output folder of a training run, or of preprocessing"
    if not folder.is_dir():
        state = "is not a folder" if folder.exists() else "does not exist"
        raise ArgumentError(f"{folder} {state}", remedy=remedy)
    if not any((folder / name).exists() for name in SIGNS_OF_A_RUN):
        raise ArgumentError(
            f"{folder} has nothing of a run: none of {', '.join(SIGNS_OF_A_RUN)}", remedy=remedy
        )


def _read_recipe(path: Path) -> tuple[str | None, Mapping[str, Any] | None]:
    """Read a recipe as text and as plain values; None for what cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
        values = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, ValueError, yaml.YAMLError):
        return None, None
    return text, values if isinstance(values, dict) else None


def _fingerprint(folder: Path) -> str | None:
    try:
        return read_tokenizer_description(folder).fingerprint
    except (OSError, UserError):
        return None


def _losses(values: object) -> dict[str, float]:
    """Return the numbers of a mapping by name."""
    if not isinstance(values, dict):
        return {}
    numbers = {str(name): as_number(value) for name, value in values.items()}
    return {name: n for name, n in numbers.items() if n is not None and math.isfinite(n)}
