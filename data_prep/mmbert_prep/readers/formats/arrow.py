"""Arrow IPC streams and files (`.arrow`, `.feather`), also as `datasets` saves and caches them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pyarrow as pa

from mmbert_prep.readers.documents import Compression, Document, FileRange, InputFile
from mmbert_prep.readers.file_format import FileFormat
from mmbert_prep.readers.formats.record_batches import (
    BATCH_ROWS,
    ERRORS,
    Columns,
    documents_of,
    first_line,
    needed_columns,
)
from mmbert_prep.readers.layout.saved_datasets import saved_dataset_companions
from mmbert_prep.readers.streams import DamagedFileError
from mmbert_prep.readers.where import condition_of
from mmbert_prep.settings import InputSettings

_FILE_MAGIC = b"ARROW1"
_FEATHER_1_MAGIC = b"FEA1"
# Marker of a length and length 0; older writers had no marker.
_STREAM_ENDS = (b"\xff\xff\xff\xff\0\0\0\0", b"\0\0\0\0")

_BINARY = {
    "string": pa.binary(),
    "large_string": pa.large_binary(),
    "string_view": pa.binary_view(),
}
_OPTIONS = pa.ipc.IpcReadOptions(use_threads=False)


def _plan(file: InputFile, unit_bytes: int, settings: InputSettings) -> list[FileRange]:
    try:
        with pa.memory_map(file.path) as source:
            if not _is_file(source):
                return file.whole()  # a stream has no index of its batches
            batches = pa.ipc.open_file(source).num_record_batches
    except (*ERRORS, DamagedFileError) as error:
        return file.unreadable(first_line(error))
    count = max(1, min(batches, -(-file.size // unit_bytes)))
    bounds = [batches * number // count for number in range(count + 1)]
    return [
        file.range(start, stop, max(1, file.size // count))
        for start, stop in itertools.pairwise(bounds)
    ]


def _is_file(source: pa.NativeFile) -> bool:
    """Return whether this is an IPC file, and not a stream. Feather version 2 is one, too."""
    magic = source.read(len(_FILE_MAGIC))
    source.seek(0)
    if magic.startswith(_FEATHER_1_MAGIC):
        raise DamagedFileError("it is Feather version 1: write it again as version 2, or Parquet")
    return magic == _FILE_MAGIC


def _read(file_range: FileRange, settings: InputSettings) -> Iterator[Document]:
    place = _Place(file_range.input_bytes)
    try:
        # Mapped pages are given back when memory is short: a batch may be as large as the file.
        # All columns are opened, since a choice of columns makes Arrow copy them.
        with pa.memory_map(file_range.path) as source:
            if _is_file(source):
                reader = pa.ipc.open_file(source, options=_OPTIONS)
                numbers = range(file_range.start, file_range.stop)
                batches: Iterator[pa.RecordBatch] = place.of_file(reader, numbers)
            else:
                reader = pa.ipc.open_stream(source, options=_OPTIONS)
                batches = place.of_stream(reader, source)
            columns = needed_columns(reader.schema, file_range, settings)
            yield from documents_of(_small(batches, columns), columns, file_range, settings)
    except ERRORS as error:
        raise DamagedFileError(first_line(error), unread=place.left) from error


class _Place:
    """The bytes of a range that are left after the batches that are done with."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.left: int | None = None
        """None before the first batch."""

    def of_file(
        self, reader: pa.ipc.RecordBatchFileReader, numbers: range
    ) -> Iterator[pa.RecordBatch]:
        for number in numbers:
            self.left = self._size * (numbers.stop - number) // len(numbers)
            yield reader.get_batch(number)

    def of_stream(
        self, reader: pa.ipc.RecordBatchStreamReader, source: pa.NativeFile
    ) -> Iterator[pa.RecordBatch]:
        position = source.tell()
        source.seek(max(0, source.size() - len(_STREAM_ENDS[0])))
        ends = source.read() == _STREAM_ENDS[0]  # else it may have been cut short
        source.seek(position)
        for batch in _to_the_end(reader, source):
            yield batch
            self.left = self._size - source.tell() if ends else None


def _to_the_end(
    reader: pa.ipc.RecordBatchStreamReader, source: pa.NativeFile
) -> Iterator[pa.RecordBatch]:
    end = source.tell()
    for batch in reader:
        end = source.tell()
        yield batch
    # A stream cut between two batches reads like a whole one, but for the mark at its end.
    after = source.tell()
    source.seek(end)
    if source.read(after - end) not in _STREAM_ENDS:
        raise DamagedFileError("the Arrow stream has no end mark: it is truncated")
    if after < source.size():
        raise DamagedFileError("there is more after the end of the Arrow stream")


def _small(batches: Iterator[pa.RecordBatch], columns: Columns) -> Iterator[pa.RecordBatch]:
    """Yield the rows of `columns` in small batches."""
    text = columns.names[0]
    for batch in batches:
        checked = [
            # Conditions on the text itself need it as a string.
            _checked(
                batch.column(name), as_binary=name == text and text not in columns.of_conditions
            )
            for name in columns.names
        ]
        whole = pa.RecordBatch.from_arrays(checked, names=columns.names)
        for start in range(0, batch.num_rows, BATCH_ROWS):
            yield whole.slice(start, BATCH_ROWS)


def _checked(column: pa.Array, as_binary: bool) -> pa.Array:
    """Return the column, whose offsets are checked to be inside its data.

    Arrow trusts them, and reading a damaged file would end the process. The UTF-8 of strings is
    checked, too, but `as_binary`: that of texts is checked later, per document.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        column.indices.validate(full=True)
        words = _checked(column.dictionary, as_binary)
        return pa.DictionaryArray.from_arrays(column.indices, words, safe=True)
    binary = _BINARY.get(str(kind))
    if as_binary and binary is not None:
        column = pa.Array.from_buffers(binary, len(column), column.buffers(), -1, column.offset)
    column.validate(full=True)
    return column


def _check_conditions(file: InputFile, settings: InputSettings) -> None:
    try:
        schema = _schema(file.path)
    except (*ERRORS, DamagedFileError):
        return  # reading reports the damage
    condition_of(settings.where).on_schema(schema, file.path)


def _schema(path: str) -> pa.Schema:
    with pa.memory_map(path) as source:
        opened = pa.ipc.open_file if _is_file(source) else pa.ipc.open_stream
        return opened(source).schema


def _has_languages(path: str, compression: Compression, settings: InputSettings) -> bool:
    """Return whether a file has the first language column; True if that cannot be read."""
    try:
        names = _schema(path).names
    except (*ERRORS, DamagedFileError):
        return True  # reading reports the damage
    return bool(settings.language_columns) and settings.language_columns[0] in names


ARROW = FileFormat(
    name="arrow",
    read=_read,
    plan=_plan,
    suffixes=(".arrow", ".feather", ".ipc"),
    compressible=False,
    has_languages=_has_languages,
    companions=saved_dataset_companions,
    check_conditions=_check_conditions,
)
