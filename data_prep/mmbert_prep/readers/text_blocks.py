"""UTF-8 blocks of text files in any encoding: byte order marks, UTF-16, and `--encoding`."""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Iterator

from mmbert.files import marked_encoding
from mmbert_prep.readers.documents import FileRange, InputFile
from mmbert_prep.readers.streams import DamagedFileError, read_blocks
from mmbert_prep.settings import UTF_8, InputSettings

_HEAD = 4096
"""Bytes at the start of a file that tell its encoding."""
_MIN_SEQUENCES = 4  # of non-ASCII characters: fewer may be UTF-8 by chance ("联通" in GB 18030)
_BLANK = b"\t\n\r"
_NO_CONTROLS = bytes([*_BLANK, *range(32, 256)])
_BLANK_UNITS = {(0, ord(character)) for character in " \n\r"}  # high and low byte in UTF-16
_INVALID = "mmbert_prep.invalid"
codecs.register_error(_INVALID, lambda error: ("\udcff", getattr(error, "end", 0)))


def text_blocks(file_range: FileRange, settings: InputSettings) -> Iterator[bytes]:
    """Yield the blocks of a range as UTF-8, without a byte order mark.

    Invalid UTF-8 is passed on, and what cannot be decoded from another encoding becomes invalid
    UTF-8: only the documents that contain it are rejected. Raises DamagedFileError where the
    encoding is another than the one assumed.
    """
    blocks = read_blocks(file_range.path, file_range.compression, file_range.start, file_range.stop)
    if file_range.is_whole:
        return utf8_blocks(blocks, settings.encoding)
    # Only UTF-8 is divided, and was recognized by more of the file than the range may hold.
    return _without_mark(blocks) if file_range.start == 0 else blocks


def may_be_divided(file: InputFile, settings: InputSettings) -> bool:
    """Return whether the line ends of a file are known without decoding it from its start."""
    if file.compression != "none":
        return False
    with open(file.path, "rb") as stream:
        head = stream.read(_HEAD)
    marked = marked_encoding(head)
    if marked is not None:
        return marked == "utf-8-sig"
    return settings.encoding == UTF_8 and _unmarked_utf16(head) is None


def utf8_blocks(blocks: Iterator[bytes], encoding: str = UTF_8) -> Iterator[bytes]:
    """Yield the blocks of a whole file as UTF-8; see `text_blocks`."""
    blocks = _with_long_head(blocks)
    head = next(blocks, b"")
    beginning = head[:_HEAD]
    marked = marked_encoding(beginning)
    if marked == "utf-8-sig":
        yield head[len(codecs.BOM_UTF8) :]
        yield from blocks
    elif marked is not None:
        yield from _transcode(itertools.chain([head], blocks), marked)
    elif encoding != UTF_8:
        if _is_certainly_utf8(beginning):
            raise DamagedFileError(
                f"it is UTF-8, not {encoding}: read it in a run without --encoding"
            )
        yield from _transcode(itertools.chain([head], blocks), encoding)
    elif (guess := _unmarked_utf16(beginning)) is not None:
        raise DamagedFileError(
            f"it seems to be UTF-16 without a byte order mark: --encoding {guess} reads it"
        )
    else:
        yield head
        yield from blocks


def _without_mark(blocks: Iterator[bytes]) -> Iterator[bytes]:
    yield next(blocks, b"").removeprefix(codecs.BOM_UTF8)
    yield from blocks


def _with_long_head(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Join the first blocks until there are `_HEAD` bytes, where the file has as many."""
    head = b""
    try:
        for block in blocks:
            head = head + block if head else block
            if len(head) >= _HEAD:
                break
    except DamagedFileError:
        yield head  # what came before the damage
        raise
    yield head
    yield from blocks


def _transcode(blocks: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)(errors=_INVALID)
    for block in blocks:
        yield decoder.decode(block).encode("utf-8", "surrogatepass")
    yield decoder.decode(b"", final=True).encode("utf-8", "surrogatepass")


def _is_certainly_utf8(head: bytes) -> bool:
    try:
        text = codecs.getincrementaldecoder(UTF_8)().decode(head)
    except UnicodeDecodeError:
        return False
    return sum(not character.isascii() for character in text) >= _MIN_SEQUENCES


def _unmarked_utf16(head: bytes) -> str | None:
    """Return "utf-16-le" or "utf-16-be" if `head` looks like one of them.

    Every other byte of an alphabetic script in UTF-16 is one and the same control character: 0 for
    Latin, 4 for Cyrillic, a tab for Devanagari, where the other bytes have control characters.
    In Han text a few are 0, at blanks and line ends, and it is invalid UTF-8.
    """
    if not head.translate(None, _NO_CONTROLS):
        return None  # ordinary text
    even, odd = head[: len(head) // 2 * 2 : 2], head[1::2]
    for name, high, low in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        if _has_one_control(high, low):
            return name
        has_blanks = 0 in high and not _BLANK_UNITS.isdisjoint(zip(high, low, strict=True))
        if has_blanks and _decodes(head, name) and not _decodes(head, UTF_8):
            return name
    return None


def _has_one_control(high: bytes, low: bytes) -> bool:
    control = max(range(32), key=high.count)
    if len(high) < 2 or high.count(control) <= 0.6 * len(high):
        return False
    if control not in _BLANK:
        return True
    return any(value < 32 for value in low.translate(None, _BLANK))  # not only short lines


def _decodes(head: bytes, encoding: str) -> bool:
    try:
        codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        return False
    return True
