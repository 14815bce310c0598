"""What the names of languages in paths and columns of a finished run were taken for."""

from __future__ import annotations

from mmbert_prep.languages.overrides import LanguageMap
from mmbert_prep.languages.report import NamedLanguage, add_name
from mmbert_prep.readers.discovery import Discovery
from mmbert_prep.readers.language_columns import name_in_column
from mmbert_prep.readers.rejection import RejectReason
from mmbert_prep.shards.intermediate import OTHER_LANGUAGES
from mmbert_prep.shards.languages import Languages


def language_names(
    found: Discovery, languages: Languages, overrides: LanguageMap
) -> dict[str, NamedLanguage]:
    """Return name -> what it was taken for, over paths and columns."""
    without = languages.counts.get("")
    missing = without is not None and RejectReason.MISSING_LANGUAGE in without.rejected
    names = found.all_names(missing or bool(found.without_language))
    for written, documents in sorted(languages.written.items()):
        use = _of_column(written, documents, overrides)
        if use.language != written:
            add_name(names, written, use)
    return names


def _of_column(written: str, documents: int, overrides: LanguageMap) -> NamedLanguage:
    if written == OTHER_LANGUAGES:
        problem = "other texts in language columns"
        return NamedLanguage(documents=documents, problem=problem)
    return name_in_column(written, documents, overrides)


def unused_overrides(found: Discovery, languages: Languages) -> list[str]:
    """Return the lines of the language map whose names are in no path and no column."""
    return [line for name, line in found.unused_overrides.items() if name not in languages.written]
