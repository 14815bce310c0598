"""Plain text: a document is a file, a line, or a block of lines between blank lines."""

from __future__ import annotations

from collections.abc import Iterator

from mmbert_prep.readers.documents import Document, FileRange
from mmbert_prep.readers.streams import OversizedLine, read_blocks, split_lines
from mmbert_prep.settings import PrepSettings

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_text(file_range: FileRange, settings: PrepSettings) -> Iterator[Document]:
    """Documents of a text file, as raw bytes (their UTF-8 is checked with all others')."""
    stream = read_blocks(file_range.path, file_range.compression, file_range.start, file_range.stop)
    if settings.text_unit == "file":
        yield _whole(stream, file_range, settings.maximum_bytes)
        return
    text_lines = split_lines(stream, settings.maximum_bytes)
    first = file_range.start == 0
    if settings.text_unit == "line":
        for line in text_lines:
            if isinstance(line, OversizedLine):
                yield Document(None, file_range.language, "too_long")
            elif line.strip():  # blank lines between documents are no documents
                yield Document(_strip_byte_order_mark(line) if first else line, file_range.language)
            first = False
        return
    block: list[bytes] = []
    length = 0
    too_long = False
    for line in text_lines:
        if not isinstance(line, OversizedLine) and not line.strip():
            if block or too_long:
                yield _block(block, too_long, file_range.language)
            block, length, too_long = [], 0, False
            continue
        if too_long:
            continue
        if isinstance(line, OversizedLine) or length + len(line) > settings.maximum_bytes:
            block, too_long = [], True
            continue
        block.append(_strip_byte_order_mark(line) if first else line)
        length += len(line) + 1
        first = False
    if block or too_long:
        yield _block(block, too_long, file_range.language)


def _block(block: list[bytes], too_long: bool, language: str | None) -> Document:
    if too_long:
        return Document(None, language, "too_long")
    return Document(b"\n".join(block), language)


def _whole(stream: Iterator[bytes], file_range: FileRange, maximum_bytes: int) -> Document:
    parts: list[bytes] = []
    length = 0
    for part in stream:
        length += len(part)
        if length > maximum_bytes:
            return Document(None, file_range.language, "too_long")
        parts.append(part)
    return Document(_strip_byte_order_mark(b"".join(parts)), file_range.language)


def _strip_byte_order_mark(line: bytes) -> bytes:
    return line.removeprefix(_BYTE_ORDER_MARK)
