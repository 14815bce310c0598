"""Values of rows without a schema, as the kinds that a condition takes them for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mmbert_prep.readers.where.kinds import Kind, Path


def lookup(row: Mapping[str, Any], path: Path) -> tuple[bool, Any]:
    """Return whether a row has a column or field, and its value."""
    value: Any = row
    for name in path:
        if not isinstance(value, Mapping) or name not in value:
            return False, None
        value = value[name]
    return True, value


def converted(value: Any, kind: Kind, texts_only: bool) -> Any:
    """Return a value as its kind, or None if it is no such value."""
    if value is None or (texts_only and value == ""):
        return None
    match kind:
        case Kind.ANY:
            return True
        case Kind.BOOLEAN:
            if texts_only:
                return {"true": True, "false": False}.get(str(value).lower())
            return value if isinstance(value, bool) else None
        case Kind.NUMBER:
            return _number(value, texts_only)
        case Kind.TEXT:
            if hasattr(value, "isoformat"):  # dates and times
                return str(value)
            if not isinstance(value, str):
                return None
            try:
                value.encode()
            except UnicodeEncodeError:  # a lone surrogate, which no text of Arrow has
                return None
            return value
    raise AssertionError(kind)


def _number(value: Any, texts_only: bool) -> float | None:
    if texts_only:
        try:
            return float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:  # a whole number beyond all floats
        return math.inf if value > 0 else -math.inf
