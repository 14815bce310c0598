"""JSON lines: one object per line. Text from one key, language from the path or other keys."""

from __future__ import annotations

import json
from collections.abc import Iterator

import orjson

from mmbert_prep.readers.documents import Document, FileRange, InputFile
from mmbert_prep.readers.file_format import FileFormat
from mmbert_prep.readers.language_columns import language_of
from mmbert_prep.readers.line_ranges import line_ranges
from mmbert_prep.readers.rejection import RejectReason, column_names
from mmbert_prep.readers.streams import OversizedLine, read_blocks, split_lines
from mmbert_prep.settings import InputSettings


def _plan(file: InputFile, unit_bytes: int, settings: InputSettings) -> list[FileRange]:
    return line_ranges(file, unit_bytes)


def _read(file_range: FileRange, settings: InputSettings) -> Iterator[Document]:
    stream = read_blocks(file_range.path, file_range.compression, file_range.start, file_range.stop)
    text_column, language_columns = settings.text_column, settings.language_columns
    for line in split_lines(stream, settings.maximum_bytes):
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
        if not isinstance(row, dict):
            yield Document.reject(file_range.language, RejectReason.BROKEN_JSON, size=size)
            continue
        language = file_range.language or language_of([row.get(name) for name in language_columns])
        text = row.get(text_column)
        if not isinstance(text, str):
            columns = column_names(row) if text_column not in row else ()
            yield Document.reject(language, RejectReason.MISSING_TEXT, size=size, columns=columns)
            continue
        try:
            yield Document(text.encode(), language, text=text, size=size)
        except UnicodeEncodeError:  # a lone surrogate, such as \ud83d
            yield Document.reject(language, RejectReason.INVALID_UTF8, size=size)


def _parse(line: bytes) -> object:
    """Parse a line with orjson, or with the standard library where orjson is stricter."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        # orjson rejects NaN and lone surrogates, and does not report invalid UTF-8 as such.
        return json.loads(line.decode())


JSONL = FileFormat(
    name="jsonl", read=_read, plan=_plan, may_be_empty=True, suffixes=(".jsonl", ".ndjson", ".json")
)
