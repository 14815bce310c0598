"""Parquet: row groups are read in small batches, only the columns that are needed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmbert_prep.readers.documents import Document, FileRange
from mmbert_prep.readers.language_columns import language_of
from mmbert_prep.readers.streams import DamagedFileError
from mmbert_prep.settings import PrepSettings

_BATCH_ROWS = 512
_BUFFER = 1 << 20  # bytes read at once; without it a whole column of a row group is in memory


def row_group_bytes(path: str) -> list[int]:
    """About the bytes on disk of each row group, by its rows.

    Raises DamagedFileError when the footer cannot be read.
    """
    try:
        with pq.ParquetFile(path) as file:
            # Columns know their sizes, but to ask a damaged footer for them ends the process.
            size = os.path.getsize(path)
            rows = [
                max(0, file.metadata.row_group(group).num_rows)
                for group in range(file.metadata.num_row_groups)
            ]
            return [max(1, size * count // max(1, sum(rows))) for count in rows]
    except (pa.ArrowException, OSError, MemoryError, ValueError) as error:
        raise DamagedFileError(_first_line(error)) from error


def read_parquet(file_range: FileRange, settings: PrepSettings) -> Iterator[Document]:
    """Documents of some row groups. Raises DamagedFileError where the file cannot be decoded."""
    try:
        with pq.ParquetFile(file_range.path, buffer_size=_BUFFER) as file:
            names = set(file.schema_arrow.names)
            if settings.text_column not in names:
                raise DamagedFileError(
                    f"no column '{settings.text_column}' among {', '.join(sorted(names))}"
                )
            columns = [name for name in settings.language_columns if name in names]
            if file_range.language:
                columns = []
            for batch in file.iter_batches(
                batch_size=_BATCH_ROWS,
                row_groups=list(range(file_range.start, file_range.stop)),
                columns=[settings.text_column, *columns],
                use_threads=False,
            ):
                texts = _as_bytes(batch.column(settings.text_column))
                values = [batch.column(name).to_pylist() for name in columns]
                for row, data in enumerate(texts):
                    language = file_range.language or language_of([value[row] for value in values])
                    problem = "missing_text" if data is None else None
                    if data is not None and len(data) > settings.maximum_bytes:
                        data, problem = None, "too_long"
                    yield Document(data, language, problem)
    except (pa.ArrowException, OSError, MemoryError, UnicodeDecodeError) as error:
        raise DamagedFileError(_first_line(error)) from error


def _as_bytes(column: pa.Array) -> list[Any]:
    """The column as Python bytes: Arrow does not check the UTF-8 of a Parquet string."""
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
        raise DamagedFileError(f"its text column is {kind}, not text")
    return column.cast(pa.large_binary()).to_pylist()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
