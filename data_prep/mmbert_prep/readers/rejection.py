"""Reasons for rejecting documents, by which manifests, summaries and reports count them."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class RejectReason(StrEnum):
    """Reason for rejecting a document. The value is its key in manifests and reports."""

    damage: bool
    """True if the input is damaged rather than unwanted; the fraction of damage is limited."""

    def __new__(cls, value: str, damage: bool = False) -> RejectReason:
        """Make a member from its key and damage flag."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.damage = damage
        return member

    BROKEN_JSON = "broken_json", True
    DAMAGED_FILE = "damaged_file", True
    INVALID_TOKENS = "invalid_tokens", True
    INVALID_UTF8 = "invalid_utf8", True
    MISSING_LANGUAGE = "missing_language", True
    MISSING_TEXT = "missing_text", True
    TOO_LONG = "too_long", True
    CONTAMINATED = "contaminated"
    DUPLICATE = "duplicate"
    EMPTY = "empty"
    NO_TOKENS = "no_tokens"
    OVER_TOKEN_CAP = "over_token_cap"
    TOO_SHORT = "too_short"


class Rejected(NamedTuple):
    """Reason for rejecting a document; for a damaged file also its path and the error."""

    reason: RejectReason
    detail: str | None = None
