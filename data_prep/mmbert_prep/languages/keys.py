"""Form of a language key `iso639-3_Script`, and the keys of FineWeb2 (`fineweb2.txt`)."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

LANGUAGE_KEY = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")

_FILE = Path(__file__).with_name("fineweb2.txt")


def is_language_key(text: str) -> bool:
    """Return whether `text` has the form `iso639-3_Script`, such as `swh_Latn`."""
    return LANGUAGE_KEY.fullmatch(text) is not None


@cache
def fineweb2_keys() -> frozenset[str]:
    """Return all keys of FineWeb2, and `eng_Latn`."""
    lines = _FILE.read_text(encoding="utf-8").splitlines()
    return frozenset(line for line in lines if line and not line.startswith("#"))


@cache
def fineweb2_scripts() -> dict[str, tuple[str, ...]]:
    """Return code -> its scripts among FineWeb2's keys, sorted; without `und` (undetermined)."""
    found: dict[str, tuple[str, ...]] = {}
    for key in sorted(fineweb2_keys()):
        code, script = key.split("_")
        if code != "und":
            found[code] = (*found.get(code, ()), script)
    return found
