"""Reasons for rejecting documents: the keys of counts in manifests, summaries and reports."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple


class RejectReason(StrEnum):
    """Reason for rejecting a document. The value is its key in manifests and reports."""

    damage: bool
    """Whether the input is damaged, not just unwanted. A run limits the fraction of damage.

    Documents without a language have a limit of their own.
    """

    def __new__(cls, value: str, damage: bool = False) -> RejectReason:
        """Create a member from its key and damage flag."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.damage = damage
        return member

    BROKEN_JSON = "broken_json", True
    BROKEN_ROW = "broken_row", True
    DAMAGED_FILE = "damaged_file", True
    INVALID_TOKENS = "invalid_tokens", True
    INVALID_UTF8 = "invalid_utf8", True
    MISSING_LANGUAGE = "missing_language"
    MISSING_TEXT = "missing_text", True
    TOO_LONG = "too_long", True
    CONTAMINATED = "contaminated"
    DUPLICATE = "duplicate"
    DUPLICATE_OF_SOURCE = "duplicate_of_source"
    EMPTY = "empty"
    NEAR_DUPLICATE = "near_duplicate"
    NOT_SELECTED = "not_selected"
    NOT_SELECTED_NULL = "not_selected_null"
    NO_TOKENS = "no_tokens"
    OVER_TOKEN_CAP = "over_token_cap"
    TOO_SHORT = "too_short"


ENCODING_REMEDY = (
    "read files in an encoding other than UTF-8 in a run of their own with --encoding NAME "
    "(cp1252, shift_jis, gb18030, koi8-r, …)"
)


class Rejected(NamedTuple):
    """Reason for rejecting a document."""

    reason: RejectReason
    detail: str | None = None
    """Path and error of a damaged file."""
    columns: tuple[str, ...] = ()
    """Names of the columns or keys that are there, if the one of the text is not."""


def column_names(names: Iterable[str], most: int = 20) -> tuple[str, ...]:
    """Return the names of columns or keys for a message, in order, at most `most`."""
    # Names of a damaged file may be no text.
    ordered = sorted(name.encode("utf-8", "replace").decode() for name in names)
    return tuple(ordered[:most]) + (("…",) if len(ordered) > most else ())
