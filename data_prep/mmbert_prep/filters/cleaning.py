"""Cleaning of single documents: each step switchable, each rejection with its reason."""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

import numpy as np
import xxhash

from mmbert_prep.filters.decontamination import Decontaminator
from mmbert_prep.readers.documents import Document
from mmbert_prep.settings import PrepSettings

# C0 controls but tab, newline and carriage return; DEL. None of these bytes occurs inside a
# multi-byte UTF-8 character, so they can be deleted from the bytes.
_ASCII_CONTROLS = bytes([*range(9), 11, 12, *range(14, 32), 127])
# C1 controls U+0080 … U+009F but NEL (U+0085), and the byte order mark inside text.
_OTHER_CONTROLS = re.compile(rb"\xc2[\x80-\x84\x86-\x9f]|\xef\xbb\xbf")

_SALT = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


class CleanText(NamedTuple):
    """A document that is kept: its text, the same as UTF-8, and whether cleaning changed it."""

    text: str
    data: bytes
    changed: bool


class Cleaner:
    """Applies the settings' cleaning to documents, one at a time."""

    def __init__(self, settings: PrepSettings) -> None:
        self._settings = settings
        self._decontaminator = (
            Decontaminator(settings.decontaminate, settings.decontaminate_ngram)
            if settings.decontaminate
            else None
        )

    def clean(self, document: Document) -> CleanText | str:
        """The cleaned text, or the reason for rejecting the document."""
        if document.problem is not None:
            return document.problem
        data = document.data
        assert data is not None, "a reader gave neither text nor problem"
        if document.language is None:
            return "missing_language"
        size = len(data)
        if size > self._settings.maximum_bytes:
            return "too_long"
        if self._settings.remove_control_characters:
            data = data.translate(None, _ASCII_CONTROLS)
            # Looking for a byte is many times faster than the expression, and most text has none.
            if b"\xc2" in data or (b"\xef" in data and b"\xef\xbb\xbf" in data):
                data = _OTHER_CONTROLS.sub(b"", data)
        changed = len(data) != size
        try:
            text = data.decode() if changed or document.text is None else document.text
        except UnicodeDecodeError:
            return "invalid_utf8"
        if self._settings.normalization is not None:
            normal = unicodedata.normalize(self._settings.normalization, text)
            if normal != text:
                text, data, changed = normal, normal.encode(), True
        if not text or text.isspace():
            return "empty"
        if len(text) < self._settings.minimum_characters:
            return "too_short"
        if self._decontaminator is not None and self._decontaminator.is_contaminated(text):
            return "contaminated"
        return CleanText(text, data, changed)


def content_hashes(data: list[bytes]) -> np.ndarray:
    """XXH3-128 of each text as uint64[n, 2] (high and low half)."""
    digests = b"".join([xxhash.xxh3_128_digest(text) for text in data])
    return np.frombuffer(digests, dtype=">u8").astype("<u8").reshape(-1, 2)


def heldout_mask(hashes: np.ndarray, share: float) -> np.ndarray:
    """Which documents are held out (bool[n]): decided by the content hash alone.

    So a document's split is the same in every run, order and amount of data. The high half is
    mixed once more, so that it stays independent of other uses of the hash.
    """
    mixed = hashes[:, 0] * np.uint64(_SALT)
    mixed ^= mixed >> np.uint64(32)
    return mixed < np.uint64(min(_MASK, int(share * 2.0**64)))
