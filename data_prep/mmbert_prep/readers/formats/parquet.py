"""Parquet: row groups in small batches, with only the text and language columns."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pyarrow.parquet as pq

from mmbert_prep.readers.documents import Document, FileRange, InputFile
from mmbert_prep.readers.file_format import FileFormat
from mmbert_prep.readers.formats.record_batches import (
    BATCH_ROWS,
    ERRORS,
    CountedBatches,
    documents_of,
    first_line,
    needed_columns,
)
from mmbert_prep.readers.streams import DamagedFileError
from mmbert_prep.readers.where import condition_of
from mmbert_prep.settings import InputSettings

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
    except ERRORS as error:
        raise DamagedFileError(first_line(error)) from error


def _read(file_range: FileRange, settings: InputSettings) -> Iterator[Document]:
    rows = 0
    read = CountedBatches(())
    try:
        with pq.ParquetFile(file_range.path, buffer_size=_BUFFER) as file:
            groups = range(file_range.start, file_range.stop)
            rows = sum(file.metadata.row_group(group).num_rows for group in groups)
            columns = needed_columns(file.schema_arrow, file_range, settings)
            batches = file.iter_batches(
                batch_size=BATCH_ROWS,
                row_groups=list(groups),
                columns=columns.names,
                use_threads=False,
            )
            read = CountedBatches(batches)
            yield from documents_of(read, columns, file_range, settings)
    except ERRORS as error:
        unread = file_range.input_bytes * max(0, rows - read.rows) // rows if rows > 0 else None
        raise DamagedFileError(first_line(error), unread=unread) from error


def _check_conditions(file: InputFile, settings: InputSettings) -> None:
    try:
        schema = pq.read_schema(file.path)
    except ERRORS:
        return  # reading reports the damage
    condition_of(settings.where).on_schema(schema, file.path)


PARQUET = FileFormat(
    name="parquet",
    read=_read,
    plan=_plan,
    check_conditions=_check_conditions,
    suffixes=(".parquet",),
    compressible=False,
    expansion=3,  # columns are compressed inside the file
)
