"""Leaves of a recipe by dotted key, to compare recipes."""

from collections.abc import Mapping
from typing import Any


def flatten(value: Any, key: str = "") -> dict[str, Any]:
    """Return the leaves of a recipe by dotted key; entries of lists go by `name` if they have one.

    Lists of plain values are leaves.
    """
    if isinstance(value, Mapping) and value:
        parts = {str(name): part for name, part in value.items()}
    elif isinstance(value, list) and any(isinstance(entry, Mapping) for entry in value):
        parts = {
            str(entry.get("name", number)) if isinstance(entry, Mapping) else str(number): entry
            for number, entry in enumerate(value)
        }
    else:
        return {key: value}
    leaves: dict[str, Any] = {}
    for name, part in parts.items():
        leaves |= flatten(part, f"{key}.{name}" if key else name)
    return leaves
