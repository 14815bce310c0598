"""Limits for the time without progress, by section of a run, from what the run has seen before.

The recipe's `guard.hang_minutes` has to allow for the slowest thing that may ever happen. A run
that has seen how long its steps take can tell a hang sooner. A hang that is found late costs
minutes; a sound run that is ended costs a restart and the work since the last checkpoint. So the
limit of a section is a large multiple of the longest time without progress that was seen in it,
never under a floor that outlasts a stalled file system, and never over the recipe's; until enough
was seen, it is the recipe's. The first steps of a process and of a phase, in which kernels are
compiled and files opened, are neither limited by what was seen nor counted as seen.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from mmbert.files import atomic_write

FILE_NAME = "durations.json"


class Section(StrEnum):
    """Part of a run whose times without progress are comparable."""

    START = "start"
    STEP = "step"
    VALIDATION = "validation"
    SAVE = "save"


@dataclass(frozen=True)
class LimitRule:
    """How limits follow from what was seen."""

    factor: float = 10.0
    """Multiple of the longest time: later phases have longer contexts, and disks get busy."""
    floor_seconds: float = 180.0
    """Least limit, longer than most stalls of a shared file system or a busy host."""
    warm_up: int = 40
    """Activities of steps, two or three of each, after the begin of a process or phase, to the end
    of which the recipe's limit applies."""
    enough: Mapping[Section, int] = field(
        default_factory=lambda: MappingProxyType(
            {Section.START: 3, Section.STEP: 200, Section.VALIDATION: 20, Section.SAVE: 10}
        )
    )
    """Times (of `START`: starts) that must have been seen before they count."""


class Seen(BaseModel):
    """What was seen of a section."""

    model_config = ConfigDict(frozen=True)

    count: int = 0
    longest_seconds: float = 0.0

    def with_one(self, seconds: float) -> "Seen":
        """Return this with another time."""
        return Seen(count=self.count + 1, longest_seconds=max(self.longest_seconds, seconds))


class Durations(BaseModel):
    """Contents of the file in the run folder."""

    model_config = ConfigDict(frozen=True)

    grid: str
    """Process grid and devices; what was seen on others says nothing."""
    sections: dict[Section, Seen] = {}


def limit_of(seen: Seen, enough: int, ceiling_seconds: float, rule: LimitRule) -> float:
    """Return the limit in seconds for a section of which this was seen."""
    if seen.count < enough:
        return ceiling_seconds
    return min(ceiling_seconds, max(rule.floor_seconds, rule.factor * seen.longest_seconds))


class SectionLimits:
    """Limits of one rank; the main thread adds what it sees, the watchdog's thread reads."""

    def __init__(
        self,
        ceiling_seconds: float,
        *,
        path: Path | None = None,
        seen: Durations | None = None,
        rule: LimitRule | None = None,
    ) -> None:
        """Start with what earlier processes saw.

        Args:
            ceiling_seconds: the recipe's limit.
            path: file that `write` writes.
            seen: contents of that file, if they are from the same grid.
        """
        self.ceiling_seconds, self.path = ceiling_seconds, path
        self._rule = rule or LimitRule()
        self._grid = seen.grid if seen else ""
        self._seen = dict(seen.sections) if seen else {}
        self._start_seconds: float | None = 0.0
        self._warm_up_left = self._rule.warm_up

    @classmethod
    def shared(
        cls, ceiling_seconds: float, path: Path, grid: str, from_rank_zero: Callable[[Any], Any]
    ) -> Self:
        """Return limits from the file at `path`, read by rank 0 and the same on all ranks.

        Args:
            grid: process grid and devices of this start.
            from_rank_zero: function that returns on every rank what its argument, a function,
                returns on rank 0.
        """
        seen = from_rank_zero(lambda: read_durations(path, grid))
        return cls(ceiling_seconds, path=path, seen=seen)

    def begin_warm_up(self) -> None:
        """Expect slow steps: the run has reached another phase."""
        self._warm_up_left = self._rule.warm_up

    def observe(self, section: Section | None, seconds: float) -> None:
        """Add a time without progress in `section`."""
        if section is None:
            return
        if section is Section.START:
            if self._start_seconds is not None:
                self._start_seconds = max(self._start_seconds, seconds)
            return
        if self._start_seconds is not None:  # the start has ended
            self._add(Section.START, self._start_seconds)
            self._start_seconds = None
        if not self._warm_up_left:
            self._add(section, seconds)
        elif section is Section.STEP:
            self._warm_up_left -= 1

    def limit(self, section: Section | None) -> float:
        """Return the longest time without progress, in seconds, that is no hang."""
        if section is None or (self._warm_up_left and section is not Section.START):
            return self.ceiling_seconds
        seen = self._seen.get(section, Seen())
        return limit_of(seen, self._rule.enough[section], self.ceiling_seconds, self._rule)

    def write(self) -> None:
        """Keep what was seen for the next start. Raises OSError or OutputError."""
        assert self.path is not None
        with atomic_write(self.path) as file:
            durations = Durations(grid=self._grid, sections=self._seen)
            file.write(durations.model_dump_json(indent=1).encode())

    def _add(self, section: Section, seconds: float) -> None:
        self._seen[section] = self._seen.get(section, Seen()).with_one(seconds)


def read_durations(path: Path, grid: str) -> Durations:
    """Return what was seen on this grid; nothing if the file is missing or of another grid."""
    try:
        found = Durations.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return Durations(grid=grid)
    return found if found.grid == grid else Durations(grid=grid)
