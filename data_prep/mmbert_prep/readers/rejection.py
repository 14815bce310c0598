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
    DAMAGED_FILE = "damaged_file", True
    INVALID_TOKENS = "invalid_tokens", True
    INVALID_UTF8 = "invalid_utf8", True
    MISSING_LANGUAGE = "missing_language"
    MISSING_TEXT = "missing_text", True
    TOO_LONG = "too_long", True
    CONTAMINATED = "contaminated"
    DUPLICATE = "duplicate"
    EMPTY = "empty"
    NO_TOKENS = "no_tokens"
    OVER_TOKEN_CAP = "over_token_cap"
    TOO_SHORT = "too_short"


class Rejected(NamedTuple):
    """Reason for rejecting a document."""

    reason: RejectReason
    detail: str | None = None
    """Path and error of a damaged file."""
    columns: tuple[str, ...] = ()
    """Names of the columns or keys that are there, if the one of the text is not."""


def column_names(names: Iterable[str], most: int = 20) -> tuple[str, ...]:
    """Return the names of columns or keys for a message, in order, at most `most`."""
    ordered = sorted(names)
    return tuple(ordered[:most]) + (("…",) if len(ordered) > most else ())
