"""JSON lines: one object a line, its text in one key, its language in the path or in keys."""

from __future__ import annotations

import json
from collections.abc import Iterator

import orjson

from mmbert_prep.readers.documents import Document, FileRange
from mmbert_prep.readers.language_columns import language_of
from mmbert_prep.readers.streams import OversizedLine, read_blocks, split_lines
from mmbert_prep.settings import PrepSettings


def read_jsonl(file_range: FileRange, settings: PrepSettings) -> Iterator[Document]:
    """Documents of a JSON-lines file; a line that is no object with a text is a problem."""
    stream = read_blocks(file_range.path, file_range.compression, file_range.start, file_range.stop)
    text_column, columns = settings.text_column, settings.language_columns
    for line in split_lines(stream, settings.maximum_bytes):
        if isinstance(line, OversizedLine):
            yield Document(None, file_range.language, "too_long")
            continue
        try:
            row = _parsed(line)
        except UnicodeDecodeError:
            yield Document(None, file_range.language, "invalid_utf8")
            continue
        except (ValueError, RecursionError):
            if line.strip():  # a blank line is no document
                yield Document(None, file_range.language, "broken_json")
            continue
        if not isinstance(row, dict):
            yield Document(None, file_range.language, "broken_json")
            continue
        language = file_range.language or language_of([row.get(name) for name in columns])
        text = row.get(text_column)
        if not isinstance(text, str):
            yield Document(None, language, "missing_text")
            continue
        try:
            yield Document(text.encode(), language, text=text)
        except UnicodeEncodeError:  # half of a surrogate pair, written as \ud83d
            yield Document(None, language, "invalid_utf8")


def _parsed(line: bytes) -> object:
    """The value of a line of JSON, as the standard library reads it."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        # It knows no NaN, no half surrogate pairs, and does not say what is wrong with the bytes.
        return json.loads(line.decode())
