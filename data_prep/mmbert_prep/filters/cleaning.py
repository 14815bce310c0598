"""Cleaning and rejection of single documents, and the held-out split."""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

import numpy as np
import xxhash

from mmbert_prep.filters.decontamination import Decontaminator
from mmbert_prep.readers.documents import Document
from mmbert_prep.readers.rejection import Rejected, RejectReason
from mmbert_prep.settings import CleaningSettings

# C0 controls except tab, newline and carriage return; DEL. None of these bytes occurs inside a
# multi-byte UTF-8 character, so they can be deleted before decoding.
_ASCII_CONTROLS = bytes([*range(9), 11, 12, *range(14, 32), 127])
# C1 controls U+0080 … U+009F except NEL (U+0085), and the byte order mark inside text.
_C1_CONTROLS = re.compile(rb"\xc2[\x80-\x84\x86-\x9f]")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_OTHER_CONTROLS = re.compile(_C1_CONTROLS.pattern + b"|" + _BYTE_ORDER_MARK)

_SALT = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


class CleanText(NamedTuple):
    """Cleaned document: text, UTF-8 bytes, and whether cleaning changed it."""

    text: str
    data: bytes
    changed: bool


class Cleaner:
    """Cleans or rejects single documents according to the settings."""

    def __init__(self, settings: CleaningSettings) -> None:
        self._settings = settings
        self._decontaminator = (
            Decontaminator(settings.decontaminate, settings.decontaminate_ngram)
            if settings.decontaminate
            else None
        )

    def clean(self, document: Document) -> CleanText | Rejected:
        """Return the cleaned text, or the reason for rejection."""
        if document.rejected is not None:
            return document.rejected
        data = document.data
        assert data is not None, "a reader gave neither a text nor a reason"
        if document.language is None:
            return Rejected(RejectReason.MISSING_LANGUAGE)
        size = len(data)
        if size > self._settings.maximum_bytes:
            return Rejected(RejectReason.TOO_LONG)
        if self._settings.remove_control_characters:
            data = data.translate(None, _ASCII_CONTROLS)
            # Bytes, and a pattern that begins with one, are found many times faster than
            # alternatives; hits are rare.
            if b"\xef" in data and _BYTE_ORDER_MARK in data:
                data = _OTHER_CONTROLS.sub(b"", data)
            elif b"\xc2" in data and _C1_CONTROLS.search(data) is not None:
                data = _C1_CONTROLS.sub(b"", data)
        changed = len(data) != size
        try:
            text = data.decode() if changed or document.text is None else document.text
        except UnicodeDecodeError:
            return Rejected(RejectReason.INVALID_UTF8)
        if self._settings.normalization is not None:
            normal = unicodedata.normalize(self._settings.normalization, text)
            if normal != text:
                text, data, changed = normal, normal.encode(), True
        if not text or text.isspace():
            return Rejected(RejectReason.EMPTY)
        if len(text) < self._settings.minimum_characters:
            return Rejected(RejectReason.TOO_SHORT)
        if self._decontaminator is not None and self._decontaminator.is_contaminated(text):
            return Rejected(RejectReason.CONTAMINATED)
        return CleanText(text, data, changed)


def content_hashes(data: list[bytes]) -> np.ndarray:
    """Return the XXH3-128 hash of each text, uint64[n, 2] (high and low half)."""
    digests = b"".join([xxhash.xxh3_128_digest(text) for text in data])
    return np.frombuffer(digests, dtype=">u8").astype("<u8").reshape(-1, 2)


def heldout_mask(hashes: np.ndarray, fraction: float) -> np.ndarray:
    """Return the mask of held-out documents, bool[n], from content hashes uint64[n, 2].

    The split of a document depends only on its content, not on the order or amount of data. Mixing
    the high half makes the split independent of other uses of the hash.
    """
    mixed = hashes[:, 0] * np.uint64(_SALT)
    mixed ^= mixed >> np.uint64(32)
    return mixed < np.uint64(min(_MASK, int(fraction * 2.0**64)))
