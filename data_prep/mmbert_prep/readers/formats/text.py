"""Plain text: a document is a whole file, a line, or a block of lines between blank lines."""

from __future__ import annotations

from collections.abc import Iterator

from mmbert_prep.readers.documents import Document, FileRange, InputFile
from mmbert_prep.readers.file_format import FileFormat, no_languages
from mmbert_prep.readers.line_ranges import line_ranges
from mmbert_prep.readers.rejection import RejectReason
from mmbert_prep.readers.streams import OversizedLine, split_lines
from mmbert_prep.readers.text_blocks import may_be_divided, text_blocks
from mmbert_prep.settings import InputSettings


def _plan(file: InputFile, unit_bytes: int, settings: InputSettings) -> list[FileRange]:
    if settings.text_unit == "file":
        return file.whole()
    ranges = line_ranges(file, unit_bytes, blank_line=settings.text_unit == "block")
    return ranges if len(ranges) == 1 or may_be_divided(file, settings) else file.whole()


def _read(file_range: FileRange, settings: InputSettings) -> Iterator[Document]:
    stream = text_blocks(file_range, settings)
    if settings.text_unit == "file":
        yield _whole_file(stream, file_range, settings.maximum_bytes)
        return
    text_lines = split_lines(stream, settings.maximum_bytes)
    if settings.text_unit == "line":
        for line in text_lines:
            if isinstance(line, OversizedLine):
                yield Document.reject(file_range.language, RejectReason.TOO_LONG, size=line.size)
            elif line.strip():  # blank lines are skipped
                yield Document(line, file_range.language)
        return
    block: list[bytes] = []
    length = 0
    too_long = False
    for line in text_lines:
        if not isinstance(line, OversizedLine) and not line.strip():
            if block or too_long:
                yield _block(block, length, too_long, file_range.language)
            block, length, too_long = [], 0, False
            continue
        size = line.size if isinstance(line, OversizedLine) else len(line)
        too_long = too_long or length + size > settings.maximum_bytes
        length += size + 1
        if too_long or isinstance(line, OversizedLine):
            block = []
            continue
        block.append(line)
    if block or too_long:
        yield _block(block, length, too_long, file_range.language)


def _block(block: list[bytes], size: int, too_long: bool, language: str | None) -> Document:
    if too_long:
        return Document.reject(language, RejectReason.TOO_LONG, size=size)
    return Document(b"\n".join(block), language)


def _whole_file(stream: Iterator[bytes], file_range: FileRange, maximum_bytes: int) -> Document:
    parts: list[bytes] = []
    length = 0
    for part in stream:
        length += len(part)
        if length > maximum_bytes:
            return Document.reject(file_range.language, RejectReason.TOO_LONG)
        parts.append(part)
    return Document(b"".join(parts), file_range.language)


TEXT = FileFormat(
    name="text",
    read=_read,
    plan=_plan,
    may_be_empty=True,
    suffixes=(".txt", ".text"),
    has_languages=no_languages,
)
