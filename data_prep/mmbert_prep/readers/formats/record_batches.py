"""Documents of Arrow record batches: the rows of Parquet and Arrow files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from mmbert_prep.readers.documents import Document, FileRange
from mmbert_prep.readers.language_columns import LanguageColumns
from mmbert_prep.readers.rejection import RejectReason, column_names
from mmbert_prep.readers.streams import DamagedFileError
from mmbert_prep.readers.where import SchemaFilter, condition_of
from mmbert_prep.settings import InputSettings

BATCH_ROWS = 512
ERRORS = (pa.ArrowException, OSError, MemoryError, ValueError)
"""What pyarrow raises for damaged files."""


@dataclass(frozen=True)
class Columns:
    """Columns of a file that are read, and the rows to take by `settings.where`."""

    names: list[str]
    """All of them; the text is the first."""
    languages: tuple[str, ...]
    selected: SchemaFilter | None
    of_conditions: tuple[str, ...] = ()


def needed_columns(schema: pa.Schema, file_range: FileRange, settings: InputSettings) -> Columns:
    """Return the columns that are needed of those of a file.

    Raises DamagedFileError if the text column is missing, ArgumentError if a column of a condition
    is missing or of another type.
    """
    names = schema.names
    check_columns(names, settings)
    languages: tuple[str, ...] = ()
    if not file_range.language:
        languages = tuple(name for name in settings.language_columns if name in names)
    needed = [settings.text_column, *languages]
    if not settings.where:
        return Columns(needed, languages, None)
    condition = condition_of(settings.where)
    selected = condition.on_schema(schema, file_range.path)
    needed = list(dict.fromkeys((*needed, *condition.columns)))
    return Columns(needed, languages, selected, condition.columns)


class CountedBatches:
    """Batches, with the count of rows in those that are done with."""

    def __init__(self, batches: Iterable[pa.RecordBatch]) -> None:
        self._batches = batches
        self.rows = 0

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for batch in self._batches:
            yield batch
            self.rows += batch.num_rows


def check_columns(names: Sequence[str], settings: InputSettings) -> None:
    """Raise DamagedFileError unless there is one text column, and no language column twice."""
    if settings.text_column not in names:
        listed = column_names(names)
        raise DamagedFileError(
            f"no column '{settings.text_column}' among {', '.join(listed)}", columns=listed
        )
    for name in (settings.text_column, *settings.language_columns):
        if names.count(name) > 1:
            raise DamagedFileError(f"it has {names.count(name)} columns '{name}'")


def documents_of(
    batches: Iterable[pa.RecordBatch],
    columns: Columns,
    file_range: FileRange,
    settings: InputSettings,
) -> Iterator[Document]:
    """Yield the rows of batches with `columns`, which come from `needed_columns`."""
    found = LanguageColumns(settings)
    for batch in batches:
        texts = _as_bytes(batch.column(settings.text_column))
        values = [batch.column(name).to_pylist() for name in columns.languages]
        reasons = columns.selected.reasons(batch) if columns.selected is not None else None
        for row, data in enumerate(texts):
            language, written = file_range.language, None
            if language is None:
                language, written = found.of([value[row] for value in values])
            if reasons is not None and (reason := reasons[row]) is not None:
                yield Document.reject(language, reason, size=len(data or b""))
            elif data is None:
                yield Document.reject(language, RejectReason.MISSING_TEXT)
            elif len(data) > settings.maximum_bytes:
                yield Document.reject(language, RejectReason.TOO_LONG, size=len(data))
            else:
                yield Document(data, language, written_language=written)


def _as_bytes(column: pa.Array) -> list[Any]:
    """Return the column as bytes: Arrow does not validate UTF-8 in strings of files."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if not (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or str(kind) in ("string_view", "binary_view")
    ):
        raise DamagedFileError(f"its text column has type {kind}, which is not text")
    return column.cast(pa.large_binary()).to_pylist()


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type."""
    return (str(error).splitlines() or [type(error).__name__])[0]
