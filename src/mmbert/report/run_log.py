"""Records and events of `RUN/log.jsonl`, without what restarts and rollbacks made void."""

from __future__ import annotations  # array is generic from Python 3.12 on

import json
import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from mmbert.errors import ArgumentError

RESTARTS = ("start", "rollback")
"""Kinds of events after which earlier records of later steps are void."""
# Mappings of a record that become columns, one for each key.
_SERIES = ("time", "loss_by_tier")
# Details of events that are kept in memory; those by language are read again when needed.
_DETAILS = (
    *("recipe", "hosts", "devices", "device_name", "versions", "train_tokens_by_language"),
    *("phase", "overall", "tiers"),
)


@dataclass(frozen=True)
class Event:
    """An event of the log."""

    kind: str
    step: int
    text: str
    time: float | None
    """Unix time in seconds."""
    line: int
    offset: int
    """Position of the line in the file, in bytes."""
    details: Mapping[str, Any]


@dataclass(frozen=True)
class RunLog:
    """Valid records as columns, and all events, of one run."""

    path: Path
    columns: Mapping[str, npt.NDArray[np.float64]]
    """float64 [records] in order of steps, NaN where a record lacks a value and
    infinite where it is not finite. Entries of the
    mappings `time` and `loss_by_tier` are `time/NAME` and `loss_by_tier/NAME`."""
    phases: tuple[str, ...] = ()
    """Phase of each record."""
    events: tuple[Event, ...] = ()
    """In the order of the file, void ones included."""
    lines: int = 0
    repeated: int = 0
    """Number of records that are void or written again."""
    broken: tuple[int, ...] = ()
    """Numbers of lines that are neither a record nor an event."""
    torn: bool = False
    """Whether the last line is incomplete; not counted in `broken`."""
    language_record: int | None = None
    """Position of the last valid record with metrics by language."""

    def __len__(self) -> int:
        return len(self.phases)

    def column(self, name: str) -> npt.NDArray[np.float64]:
        """Return a column; NaN if no record has it."""
        return self.columns.get(name, np.full(len(self), np.nan))

    def series(self, name: str) -> dict[str, npt.NDArray[np.float64]]:
        """Return the columns of a mapping, `time` or `loss_by_tier`, by key."""
        prefix = f"{name}/"
        return {
            key.removeprefix(prefix): column
            for key, column in self.columns.items()
            if key.startswith(prefix)
        }

    def reread(self, offset: int) -> dict[str, Any]:
        """Read the line at `offset` again, with all its keys."""
        with open(self.path, "rb") as file:
            file.seek(offset)
            return _parse(file.readline()) or {}

    def valid(self, events: Sequence[Event]) -> list[Event]:
        """Return the events that no later restart has made void, in order."""
        keep = valid_lines(
            np.array([event.line for event in events], dtype=np.int64),
            np.array([event.step for event in events], dtype=np.int64),
            self.restarts,
        )
        return [event for event, kept in zip(events, keep, strict=True) if kept]

    @property
    def restarts(self) -> list[tuple[int, int]]:
        """Line and step of each start and rollback, in order."""
        return [(event.line, event.step) for event in self.events if event.kind in RESTARTS]


def valid_lines(
    lines: npt.NDArray[np.int64], steps: npt.NDArray[np.int64], restarts: Sequence[tuple[int, int]]
) -> npt.NDArray[np.bool_]:
    """Return which lines hold: a restart at step k makes earlier lines of steps above k void.

    Args:
        lines, steps: int64 [records], line number and step of each.
        restarts: line and step of each restart, in order.

    Returns:
        bool [records].
    """
    if not restarts:
        return np.ones(len(lines), dtype=np.bool_)
    at, to = np.array(restarts, dtype=np.int64).T
    lowest_from_here = np.minimum.accumulate(to[::-1])[::-1]
    bounds = np.append(lowest_from_here, np.iinfo(np.int64).max)
    return np.asarray(steps <= bounds[np.searchsorted(at, lines)], dtype=np.bool_)


def last_of_each_step(
    steps: npt.NDArray[np.int64], valid: npt.NDArray[np.bool_]
) -> npt.NDArray[np.intp]:
    """Return the positions of the valid records in order of steps, the last of each step."""
    positions = np.flatnonzero(valid)
    positions = positions[np.argsort(steps[positions], kind="stable")]
    ordered = steps[positions]
    return positions[np.append(ordered[1:] != ordered[:-1], True)] if len(positions) else positions


def read_log(path: Path) -> RunLog:
    """Read a log; broken lines are counted and skipped.

    Raises:
        ArgumentError: the file cannot be read.
    """
    found = _Builder()
    offset = number = 0
    line = b"\n"
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                found.add(line, number, offset)
                offset += len(line)
    except OSError as error:
        raise ArgumentError(
            f"cannot read {path}: {error.strerror}", remedy="name the folder of a training run"
        ) from error
    return found.build(path, number, torn=not line.endswith(b"\n"))


@dataclass
class _Builder:
    """Columns and events of the lines read so far."""

    columns: dict[str, array[float]] = field(default_factory=dict)
    lines: array[int] = field(default_factory=lambda: array("q"))
    steps: array[int] = field(default_factory=lambda: array("q"))
    offsets: array[int] = field(default_factory=lambda: array("q"))
    with_languages: array[int] = field(default_factory=lambda: array("b"))
    phases: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    broken: list[int] = field(default_factory=list)

    def add(self, line: bytes, number: int, offset: int) -> None:
        """Add a line; one that is neither a record nor an event is broken."""
        entry = _parse(line)
        if entry is None or not _is_count(entry.get("step")):
            self.broken.append(number)
        elif "event" in entry:
            self.events.append(
                Event(
                    kind=str(entry["event"]),
                    step=entry["step"],
                    text=str(entry.get("text", "")),
                    time=as_number(entry.get("time")),
                    line=number,
                    offset=offset,
                    details={key: entry[key] for key in _DETAILS if key in entry},
                )
            )
        elif _is_count(entry.get("tokens")):
            self._add_record(entry, number, offset)
        else:
            self.broken.append(number)

    def _add_record(self, record: dict[str, Any], number: int, offset: int) -> None:
        self.lines.append(number)
        self.steps.append(record["step"])
        self.offsets.append(offset)
        self.with_languages.append("share_by_language" in record)
        self.phases.append(str(record.get("phase", "")))
        for key, value in record.items():
            if key in _SERIES and isinstance(value, dict):
                for name, part in value.items():
                    self._put(f"{key}/{name}", part)
            else:
                self._put(key, value)

    def _put(self, name: str, value: object) -> None:
        number = as_number(value)
        if number is None:
            return
        column = self.columns.setdefault(name, array("d"))
        column.extend([math.nan] * (len(self.lines) - 1 - len(column)))
        # A logged NaN is kept apart from a missing value.
        column.append(math.inf if math.isnan(number) else number)

    def build(self, path: Path, lines: int, *, torn: bool) -> RunLog:
        """Return the log without void and repeated records."""
        torn = torn and self.broken[-1:] == [lines]
        steps = np.array(self.steps, dtype=np.int64)
        restarts = [(event.line, event.step) for event in self.events if event.kind in RESTARTS]
        valid = valid_lines(np.array(self.lines, dtype=np.int64), steps, restarts)
        kept = last_of_each_step(steps, valid)
        with_languages = kept[np.array(self.with_languages, dtype=np.bool_)[kept]]
        columns = {}
        for name, column in self.columns.items():
            column.extend([math.nan] * (len(steps) - len(column)))
            columns[name] = np.array(column)[kept]
        return RunLog(
            path=path,
            columns=columns,
            phases=tuple(self.phases[position] for position in kept),
            events=tuple(self.events),
            lines=lines,
            repeated=len(steps) - len(kept),
            broken=tuple(self.broken[:-1] if torn else self.broken),
            torn=torn,
            language_record=self.offsets[with_languages[-1]] if len(with_languages) else None,
        )


def _parse(line: bytes) -> dict[str, Any] | None:
    """Parse a line; None if it is no JSON object."""
    try:
        entry = orjson.loads(line)
    except orjson.JSONDecodeError:  # also for NaN and Infinity, which training may log
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            return None
    return entry if isinstance(entry, dict) else None


def _is_count(value: object) -> bool:
    """Whether a value can be a step or a number of tokens."""
    return type(value) is int and 0 <= value < 1 << 62


def as_number(value: object) -> float | None:
    """Return a number as a float; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None
