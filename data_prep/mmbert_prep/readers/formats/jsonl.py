"""JSON: an object per line, an array of objects, or pretty-printed objects.

Text from one key, language from the path or other keys.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
from collections.abc import Iterator
from pathlib import PurePath

import orjson

from mmbert_prep.readers.documents import Document, FileRange, InputFile, Row
from mmbert_prep.readers.file_format import FileFormat
from mmbert_prep.readers.formats.json_values import sized_json_values
from mmbert_prep.readers.language_columns import ColumnLanguage
from mmbert_prep.readers.line_ranges import line_ranges
from mmbert_prep.readers.rejection import RejectReason, column_names
from mmbert_prep.readers.row_documents import documents_of_rows
from mmbert_prep.readers.streams import CountedBlocks, DamagedFileError, OversizedLine, split_lines
from mmbert_prep.readers.text_blocks import may_be_divided, text_blocks
from mmbert_prep.readers.where import condition_of
from mmbert_prep.settings import InputSettings

_PEEK = 1 << 20  # bytes in which the first line of a file of JSON lines should end


def _plan(file: InputFile, unit_bytes: int, settings: InputSettings) -> list[FileRange]:
    ranges = line_ranges(file, unit_bytes)
    if len(ranges) == 1:
        return ranges
    head, _ = _peek(text_blocks(file.whole()[0], settings))
    if may_be_divided(file, settings) and _has_lines(head, file.path):
        return ranges
    return file.whole()


def _read(file_range: FileRange, settings: InputSettings) -> Iterator[Document]:
    text_column = settings.text_column

    def document(row: Row, found: ColumnLanguage) -> Document:
        (values, size), (language, written) = row, found
        text = values.get(text_column)
        if not isinstance(text, str):
            columns = column_names(values) if text_column not in values else ()
            return Document.reject(language, RejectReason.MISSING_TEXT, size=size, columns=columns)
        try:
            data = text.encode()
        except UnicodeEncodeError:  # a lone surrogate, such as \ud83d
            return Document.reject(language, RejectReason.INVALID_UTF8, size=size)
        return Document(data, language, text=text, size=size, written_language=written)

    return documents_of_rows(_rows(file_range, settings), file_range.language, settings, document)


def _check_conditions(file: InputFile, settings: InputSettings) -> None:
    (whole,) = file.whole()
    with contextlib.suppress(DamagedFileError, OSError):  # reading reports the damage
        condition_of(settings.where).check_rows(_rows(whole, settings), file.path)


def _rows(file_range: FileRange, settings: InputSettings) -> Iterator[Row | Document]:
    """Yield the objects of a range, and a rejected document for what is none."""
    blocks = text_blocks(file_range, settings)
    if file_range.is_whole:  # others were divided at lines
        head, blocks = _peek(blocks)
        if not _has_lines(head, file_range.path):
            return _rows_of_values(blocks, file_range, settings)
    return _rows_of_lines(blocks, file_range, settings)


def _peek(blocks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """Return the first blocks, joined, and all of them."""
    head: list[bytes] = []
    size = 0
    try:
        for block in blocks:
            head.append(block)
            size += len(block)
            if size >= _PEEK:
                break
    except (DamagedFileError, OSError) as error:
        blocks = _failing(error)  # after what came before the damage
    return b"".join(head), _joined(head, blocks)


def _joined(head: list[bytes], blocks: Iterator[bytes]) -> Iterator[bytes]:
    while head:
        yield head.pop(0)  # not kept
    yield from blocks


def _failing(error: Exception) -> Iterator[bytes]:
    yield b""
    raise error


def _rows_of_lines(
    blocks: Iterator[bytes], file_range: FileRange, settings: InputSettings
) -> Iterator[Row | Document]:
    for line in split_lines(blocks, settings.maximum_bytes):
        if isinstance(line, OversizedLine):
            yield Document.reject(file_range.language, RejectReason.TOO_LONG, size=line.size)
            continue
        size = len(line)
        try:
            row = _parse(line)
        except UnicodeDecodeError:
            yield Document.reject(file_range.language, RejectReason.INVALID_UTF8, size=size)
            continue
        except (ValueError, RecursionError):
            if line.strip():  # blank lines are skipped
                yield Document.reject(file_range.language, RejectReason.BROKEN_JSON, size=size)
            continue
        yield _row(row, size, file_range)


def _rows_of_values(
    blocks: Iterator[bytes], file_range: FileRange, settings: InputSettings
) -> Iterator[Row | Document]:
    counted = CountedBlocks(blocks, file_range.input_bytes)
    for row, size in sized_json_values(counted, settings.maximum_bytes):
        _check_arrays(row, settings)
        yield _row(row, size, file_range)


def _row(row: object, size: int, file_range: FileRange) -> Row | Document:
    if isinstance(row, dict):
        return Row(row, size)
    return Document.reject(file_range.language, RejectReason.BROKEN_JSON, size=size)


def _check_arrays(row: object, settings: InputSettings) -> None:
    """Raise DamagedFileError for an object around arrays of objects: which is text is unclear."""
    if not isinstance(row, dict) or settings.text_column in row:
        return
    arrays = [
        key
        for key, value in row.items()
        if isinstance(value, list) and value and isinstance(value[0], dict)
    ]
    if arrays:
        names = [key.encode("utf-8", "replace").decode() for key in arrays]
        raise DamagedFileError(
            f"an object without the key '{settings.text_column}', around the arrays "
            f"{', '.join(names)}: `jq -c '.{names[0]}[]'` writes one as JSON lines"
        )


def _has_lines(head: bytes, path: str) -> bool:
    """Return whether a file has a value per line, by its first two lines that are not blank.

    An array begins with a bracket, which its line does not close before a line with an object.
    Pretty-printed objects, in .json files only, have no object in either line, and a single line
    is an object of any layout.
    """
    is_array = head.lstrip().startswith(b"[")
    if not is_array and not _is_json(path):
        return True
    lines = [*itertools.islice(filter(bytes.strip, io.BytesIO(head)), 2)]
    if len(lines) < 2 and len(head) >= _PEEK:  # the first line is longer than the head
        return not is_array
    rows = [_row_or_none(line) for line in lines]
    if is_array:
        return len(rows) == 2 and rows[0] is not None and isinstance(rows[1], dict)
    return len(rows) == 2 and any(isinstance(row, dict) for row in rows)


def _is_json(path: str) -> bool:
    return ".json" in PurePath(path.lower()).suffixes[-2:]


def _row_or_none(line: bytes) -> object:
    try:
        return _parse(line)
    except (ValueError, RecursionError):
        return None


def _parse(line: bytes) -> object:
    """Parse a line with orjson, or with the standard library where orjson is stricter."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        # orjson rejects NaN and lone surrogates, and does not report invalid UTF-8 as such.
        return json.loads(line.decode("utf-8-sig"))  # files joined with their marks


JSONL = FileFormat(
    name="jsonl",
    read=_read,
    plan=_plan,
    may_be_empty=True,
    suffixes=(".jsonl", ".ndjson", ".json"),
    check_conditions=_check_conditions,
)
