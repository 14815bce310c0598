"""Differences between recipes, by dotted key."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmbert.recipe.flat import flatten

MAX_VALUE_LENGTH = 300
MISSING = "–"
# Of a long list, such as one of languages, only the differences are shown.
_LONG_LIST = 8
_SHOWN_ENTRIES = 12


@dataclass(frozen=True)
class Change:
    """A key that differs, with its values as text."""

    key: str
    before: str
    after: str


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Return the keys whose values differ between two recipes, in the order of the later one."""
    old, new = flatten(before), flatten(after)
    found = []
    for key in [*new, *(key for key in old if key not in new)]:
        if key in old and key in new and old[key] == new[key]:
            continue
        found.append(Change(key, *_texts(key, old, new)))
    return found


def _texts(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, str]:
    """Return the values of `key` as text; of two long lists, what they do not share."""
    before, after = old.get(key), new.get(key)
    if (
        isinstance(before, list)
        and isinstance(after, list)
        and max(len(before), len(after)) > _LONG_LIST
    ):
        return _only_in(before, after), _only_in(after, before)
    return (
        _text(before) if key in old else MISSING,
        _text(after) if key in new else MISSING,
    )


def _only_in(entries: Sequence[Any], others: Sequence[Any]) -> str:
    known = set(map(_text, others))
    only = [text for text in map(_text, entries) if text not in known]
    shown = ", ".join(only[:_SHOWN_ENTRIES]) + (", …" if len(only) > _SHOWN_ENTRIES else "")
    return f"{len(entries)} entries" + (f", {len(only)} of them only here: {shown}" if only else "")


def _text(value: Any) -> str:
    """Return a value as text, short enough for a table."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_VALUE_LENGTH else f"{text[:MAX_VALUE_LENGTH]}…"
