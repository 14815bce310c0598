"""Plain text: a document is a file, a line, or a block of lines between blank lines."""

from __future__ import annotations

from collections.abc import Iterator

from mmbert_prep.readers.documents import Document, Segment
from mmbert_prep.readers.streams import TooLong, blocks, lines
from mmbert_prep.settings import PrepSettings

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_text(segment: Segment, settings: PrepSettings) -> Iterator[Document]:
    """Documents of a text file, as raw bytes (their UTF-8 is checked with all others')."""
    stream = blocks(segment.path, segment.compression, segment.start, segment.stop)
    if settings.text_unit == "file":
        yield _whole(stream, segment, settings.maximum_bytes)
        return
    text_lines = lines(stream, settings.maximum_bytes)
    first = segment.start == 0
    if settings.text_unit == "line":
        for line in text_lines:
            if isinstance(line, TooLong):
                yield Document(None, segment.language, "too_long")
            elif line.strip():  # blank lines between documents are no documents
                yield Document(_without_mark(line) if first else line, segment.language)
            first = False
        return
    block: list[bytes] = []
    length = 0
    too_long = False
    for line in text_lines:
        if not isinstance(line, TooLong) and not line.strip():
            if block or too_long:
                yield _block(block, too_long, segment.language)
            block, length, too_long = [], 0, False
            continue
        if too_long:
            continue
        if isinstance(line, TooLong) or length + len(line) > settings.maximum_bytes:
            block, too_long = [], True
            continue
        block.append(_without_mark(line) if first else line)
        length += len(line) + 1
        first = False
    if block or too_long:
        yield _block(block, too_long, segment.language)


def _block(block: list[bytes], too_long: bool, language: str | None) -> Document:
    if too_long:
        return Document(None, language, "too_long")
    return Document(b"\n".join(block), language)


def _whole(stream: Iterator[bytes], segment: Segment, maximum_bytes: int) -> Document:
    parts: list[bytes] = []
    length = 0
    for part in stream:
        length += len(part)
        if length > maximum_bytes:
            return Document(None, segment.language, "too_long")
        parts.append(part)
    return Document(_without_mark(b"".join(parts)), segment.language)


def _without_mark(line: bytes) -> bytes:
    return line.removeprefix(_BYTE_ORDER_MARK)
