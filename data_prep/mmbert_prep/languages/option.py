"""The value of `--language`: a key, or a language as people write it."""

from __future__ import annotations

from mmbert.errors import ArgumentError
from mmbert_prep.languages.nearest import nearest_keys
from mmbert_prep.languages.overrides import NO_LANGUAGE, LanguageMap
from mmbert_prep.languages.resolution import resolve


def language_option(text: str, overrides: LanguageMap) -> str:
    """Return the key of `--language`. Raises ArgumentError if it names none, or several."""
    given = overrides.get(text)
    if given is not None and given != NO_LANGUAGE:
        return given
    found = resolve(text)
    if found.key is not None:
        return found.key
    keys = found.candidates or nearest_keys(text)
    raise ArgumentError(
        f"--language {text}: {found.problem}",
        remedy=f"give {' or '.join(f'--language {key}' for key in keys)}"
        if keys
        else "give a key such as swh_Latn, the code or the English name of a language",
    )
