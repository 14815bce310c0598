"""Language key of a row from its columns."""

from __future__ import annotations

from collections.abc import Sequence

from mmbert_prep.readers.language_codes import is_language_key, iso639_3


def language_of(values: Sequence[object]) -> str | None:
    """Return the language key given by the values of the language columns, or None.

    The first value is the whole key (`swh_Latn`), or the first two are code and script (`swh` or
    `sw`, and `Latn`).
    """
    if not values or not isinstance(values[0], str):
        return None
    code = values[0]
    if is_language_key(code):
        return code
    if len(values) < 2 or not isinstance(values[1], str):
        return None
    try:
        key = f"{iso639_3(code)}_{values[1]}"
    except KeyError:
        return None
    return key if is_language_key(key) else None
