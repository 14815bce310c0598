"""Parquet: row groups in small batches, with only the text and language columns."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmbert_prep.readers.documents import Document, FileRange, InputFile
from mmbert_prep.readers.file_format import FileFormat
from mmbert_prep.readers.language_columns import language_of
from mmbert_prep.readers.rejection import RejectReason, column_names
from mmbert_prep.readers.streams import DamagedFileError
from mmbert_prep.settings import InputSettings

_BATCH_ROWS = 512
_BUFFER = 1 << 20  # bytes per read; by default pyarrow loads a whole column chunk


def _plan(file: InputFile, unit_bytes: int, settings: InputSettings) -> list[FileRange]:
    try:
        sizes = _row_group_bytes(file.path)
    except DamagedFileError as error:
        return file.unreadable(str(error))
    ranges: list[FileRange] = []
    start = input_bytes = 0
    for group, size in enumerate(sizes):
        input_bytes += size
        if input_bytes >= unit_bytes or group == len(sizes) - 1:
            ranges.append(file.range(start, group + 1, input_bytes))
            start, input_bytes = group + 1, 0
    return ranges


def _row_group_bytes(path: str) -> list[int]:
    """Estimate the bytes on disk of each row group from its number of rows."""
    try:
        with pq.ParquetFile(path) as file:
            # The footer has exact sizes, but reading them from a damaged one crashes the process.
            size = os.path.getsize(path)
            rows = [
                max(0, file.metadata.row_group(group).num_rows)
                for group in range(file.metadata.num_row_groups)
            ]
            return [max(1, size * count // max(1, sum(rows))) for count in rows]
    except (pa.ArrowException, OSError, MemoryError, ValueError) as error:
        raise DamagedFileError(_first_line(error)) from error


def _read(file_range: FileRange, settings: InputSettings) -> Iterator[Document]:
    rows = rows_read = 0
    try:
        with pq.ParquetFile(file_range.path, buffer_size=_BUFFER) as file:
            names = set(file.schema_arrow.names)
            if settings.text_column not in names:
                raise DamagedFileError(
                    f"no column '{settings.text_column}' among {', '.join(column_names(names))}",
                    columns=column_names(names),
                )
            columns = [name for name in settings.language_columns if name in names]
            if file_range.language:
                columns = []
            groups = range(file_range.start, file_range.stop)
            rows = sum(file.metadata.row_group(group).num_rows for group in groups)
            for batch in file.iter_batches(
                batch_size=_BATCH_ROWS,
                row_groups=list(groups),
                columns=[settings.text_column, *columns],
                use_threads=False,
            ):
                texts = _as_bytes(batch.column(settings.text_column))
                values = [batch.column(name).to_pylist() for name in columns]
                for row, data in enumerate(texts):
                    language = file_range.language or language_of([value[row] for value in values])
                    if data is None:
                        yield Document.reject(language, RejectReason.MISSING_TEXT)
                    elif len(data) > settings.maximum_bytes:
                        yield Document.reject(language, RejectReason.TOO_LONG, size=len(data))
                    else:
                        yield Document(data, language)
                rows_read += len(texts)
    except (pa.ArrowException, OSError, MemoryError, UnicodeDecodeError) as error:
        unread = file_range.input_bytes * max(0, rows - rows_read) // rows if rows else None
        raise DamagedFileError(_first_line(error), unread=unread) from error


def _as_bytes(column: pa.Array) -> list[Any]:
    """Return the column as bytes: Arrow does not validate UTF-8 in Parquet strings."""
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


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


PARQUET = FileFormat(
    name="parquet",
    read=_read,
    plan=_plan,
    suffixes=(".parquet",),
    compressible=False,
    expansion=3,  # columns are compressed inside the file
)
