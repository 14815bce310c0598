"""Kinds of values in a condition: what each column is taken for, by its uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

import pyarrow.compute as pc

Path = tuple[str, ...]
"""Name of a column, then of fields inside it."""
Build = Callable[[Callable[[Path], pc.Expression]], pc.Expression]
"""Makes an expression, given the expression of each column."""


class Kind(StrEnum):
    """What a condition takes the values of a column for."""

    NUMBER = "a number"
    TEXT = "a text"
    BOOLEAN = "true or false"
    ANY = "anything"


@dataclass(frozen=True)
class Term:
    """A part of a condition that has a value."""

    build: Build
    kind: Kind = Kind.ANY
    """Kind of the value; `ANY` for a column, whose kind its uses decide."""
    column: Path | None = None


class RefusedError(Exception):
    """Reason for refusing a condition."""


@dataclass
class Kinds:
    """Kinds of columns by use; columns that are compared with each other share one."""

    groups: dict[Path, list[Path]] = field(default_factory=dict)
    found: dict[Path, Kind] = field(default_factory=dict)
    compared: set[Path] = field(default_factory=set)
    """Columns that are compared with columns."""

    def add(self, path: Path) -> None:
        """Note a column."""
        self.groups.setdefault(path, [path])

    def need(self, term: Term, kind: Kind) -> None:
        """Note what a value is used as. Raises RefusedError if it is something else."""
        if term.column is None:
            if term.kind is not kind:
                raise RefusedError(f"{term.kind} stands where {kind} is needed")
            return
        known = self.found.get(term.column, kind)
        if known is not kind:
            raise RefusedError(f"{name_of(term.column)} is taken for {known} and for {kind}")
        for path in self.groups[term.column]:
            self.found[path] = kind

    def unite(self, left: Term, right: Term) -> None:
        """Note that the two sides of a comparison have one kind."""
        if left.column is None or right.column is None:
            self.need(*((left, right.kind) if left.column is not None else (right, left.kind)))
            return
        self.compared |= {left.column, right.column}
        joined = list(dict.fromkeys(self.groups[left.column] + self.groups[right.column]))
        kinds = {self.found[path] for path in joined if path in self.found}
        if len(kinds) > 1:
            raise RefusedError(
                f"{name_of(left.column)} and {name_of(right.column)} are compared, but one is "
                f"taken for {' and one for '.join(sorted(kinds))}"
            )
        for path in joined:
            self.groups[path] = joined
            for kind in kinds:
                self.found[path] = kind

    def resolved(self) -> dict[Path, Kind]:
        """Return the kind of each column: text where columns are compared with each other only."""
        alone = {path: Kind.TEXT if path in self.compared else Kind.ANY for path in self.groups}
        return {path: self.found.get(path, alone[path]) for path in self.groups}


def name_of(path: Path) -> str:
    """Return a column as messages name it."""
    return ".".join(path)
