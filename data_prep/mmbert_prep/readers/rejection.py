"""Reasons for rejecting a document. Manifests, summaries and reports count documents by them."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class RejectReason(StrEnum):
    """Why a document is not kept. The value is its key in manifests, summaries and reports."""

    damage: bool
    """Whether the input is damaged rather than unwanted; the fraction of these is limited."""

    def __new__(cls, value: str, damage: bool = False) -> RejectReason:
        """A member from its key and whether it means damage."""
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
    """A rejected document: the reason and, for a damaged file, its path and what is wrong."""

    reason: RejectReason
    detail: str | None = None
