"""Language of a row from its language columns, resolved once for each different value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mmbert_prep.languages.keys import is_language_key
from mmbert_prep.languages.nearest import nearest_keys
from mmbert_prep.languages.overrides import NO_LANGUAGE, LanguageMap
from mmbert_prep.languages.report import NamedLanguage
from mmbert_prep.languages.resolution import Resolution, resolve
from mmbert_prep.settings import InputSettings

_MOST_VALUES = 100_000  # a column of other texts has a value for each row
_LONGEST = 100  # characters of a value that may name a language


class ColumnLanguage(NamedTuple):
    """What the values of the language columns of a row were taken for."""

    key: str | None
    written: str | None = None
    """The values as in `sr` or `sr_Latn`, unless they are a key that the user left as it is."""


_NONE = ColumnLanguage(None)


class LanguageColumns:
    """Languages of the rows of a file."""

    def __init__(self, settings: InputSettings) -> None:
        self._columns = settings.language_columns
        self._overrides = settings.language_map
        self._known: dict[tuple[object, ...], ColumnLanguage] = {}

    def of_row(self, row: Mapping[str, object], given: str | None) -> ColumnLanguage:
        """Return the language of a row by column names; `given` is that of its file."""
        if given is not None:
            return ColumnLanguage(given)
        return self.of([row.get(name) for name in self._columns])

    def of(self, values: Sequence[object]) -> ColumnLanguage:
        """Return the language given by the values of the language columns.

        The first value is the whole name (`swh_Latn`, `sw`, `Swahili`), or the first two are code
        and script (`swh` or `sw`, and `Latn`).
        """
        row = tuple(values)
        try:
            return self._known[row]
        except KeyError:
            found = _language(row, self._overrides)
        except TypeError:  # a list or an object
            return _NONE
        if len(self._known) < _MOST_VALUES:
            self._known[row] = found
        return found


def written_language(values: Sequence[object]) -> str | None:
    """Return code and script of a row's values as one name, or None if there is no code."""
    if not values or not isinstance(values[0], str) or not values[0].strip():
        return None
    code = values[0].strip()
    script = values[1].strip() if len(values) > 1 and isinstance(values[1], str) else ""
    if not script or is_language_key(code) or resolve(code).certain:
        return code
    return f"{code.replace('_', '-').split('-')[0]}_{script}"  # of `pt-BR` only `pt`


def resolve_written(written: str, overrides: LanguageMap) -> Resolution:
    """Return the key of the values of language columns, as `written_language` has them."""
    given = overrides.get(written)
    if given is not None:
        return Resolution(None if given == NO_LANGUAGE else given, "the language map leaves it out")
    return resolve(written)


def name_in_column(written: str, documents: int, overrides: LanguageMap) -> NamedLanguage:
    """Return what the values of language columns were taken for, with their documents."""
    resolution = resolve_written(written, overrides)
    if resolution.key is not None:
        note = resolution.note
        return NamedLanguage(language=resolution.key, documents=documents, note=note)
    keys = resolution.candidates or nearest_keys(written)
    return NamedLanguage(documents=documents, problem=resolution.problem, candidates=keys)


def _language(row: tuple[object, ...], overrides: LanguageMap) -> ColumnLanguage:
    written = written_language(row)
    if written is None:
        return _NONE
    if len(written) > _LONGEST:
        return ColumnLanguage(None, f"{written[:_LONGEST]}…")
    key = resolve_written(written, overrides).key
    is_key = key == written and overrides.get(written) is None
    return ColumnLanguage(key, None if is_key else written)
