"""Streams of bytes and lines from plain, gzip, zstd, bzip2 and xz files.

Streams are iterators of blocks: memory is bounded by a block and the longest allowed line,
regardless of the size of the file. A truncated compressed file yields everything before the damage,
then raises DamagedFileError.
"""

from __future__ import annotations

import bz2
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import zstandard

from mmbert_prep.readers.documents import Compression

COMPRESSIONS: dict[str, Compression] = {
    ".gz": "gzip",
    ".zst": "zstd",
    ".zstd": "zstd",
    ".bz2": "bzip2",
    ".xz": "xz",
}
"""File name extension -> compression."""

BLOCK = 1 << 20
_CHUNK = 512  # compressed bytes per call of zstd, which expand to at most about 20 MB
_ALL_COUNTS = " by an unknown size, so all of the file counts as unread"
_BZIP2_CHECKED = BLOCK  # a checksum is of 900 kB of text at most
_XZ_MEMORY = 256 << 20  # xz -9 needs 65 MB; files made with larger dictionaries up to 4 GB


class DamagedFileError(Exception):
    """A file cannot be read further. The message has the reason."""

    def __init__(
        self, message: str, *, unread: int | None = None, columns: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message)
        self.unread = unread
        """Bytes on disk of the range that were not read; None if that is unknown, or all."""
        self.columns = columns
        """Names of the columns that are there, if the one of the text is not."""


@dataclass(frozen=True)
class OversizedLine:
    """Placeholder for a skipped line that is longer than allowed, with its size in bytes."""

    size: int


def read_blocks(path: str, compression: Compression, start: int, stop: int) -> Iterator[bytes]:
    """Yield decompressed blocks of a file. `start` and `stop` apply to uncompressed files only."""
    with open(path, "rb") as file:
        if compression == "none":
            file.seek(start)
            remaining = stop - start
            while remaining > 0:
                block = file.read(min(BLOCK, remaining))
                if not block:
                    raise DamagedFileError(
                        f"it is truncated ({remaining} bytes are missing)", unread=remaining
                    )
                remaining -= len(block)
                yield block
            return
        compressed = iter(lambda: file.read(BLOCK), b"")
        size = os.fstat(file.fileno()).st_size
        yield from _DECOMPRESS[compression](compressed, size)


def _damage(name: str, error: Exception, unread: int) -> DamagedFileError:
    # A checksum differs after all bytes of a part were read: the place of the damage is unknown.
    message = f"{name}: {error}"
    return DamagedFileError(message, unread=None if "check" in message else unread)


def _gunzip(compressed: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Yield the blocks of gzip members. `size`: compressed bytes, for what damage leaves unread."""
    member = zlib.decompressobj(wbits=31)
    inside = False
    unread = size
    for block in compressed:
        data = block
        while data:
            if not inside and not data.strip(b"\0"):
                break  # zero padding after the last member, from tape and block devices
            inside = True
            try:
                out = member.decompress(data, BLOCK)
                unread -= len(data) - len(member.unconsumed_tail) - len(member.unused_data)
                yield out
                # After a full block there may be more output, with or without unconsumed input.
                while not member.eof and (member.unconsumed_tail or len(out) == BLOCK):
                    data = member.unconsumed_tail
                    out = member.decompress(data, BLOCK)
                    unread -= len(data) - len(member.unconsumed_tail) - len(member.unused_data)
                    yield out
            except zlib.error as error:
                raise _damage("gzip", error, unread) from error
            data = b""
            if member.eof:
                data = member.unused_data
                member = zlib.decompressobj(wbits=31)
                inside = False
    if inside:
        raise DamagedFileError(f"the gzip stream is truncated{_ALL_COUNTS}")


def _unzstd(compressed: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Yield the blocks of zstd frames. `size`: compressed bytes, for what damage leaves unread."""
    # zstd -d has the same limit of 128 MB; frames made with --long need up to 2 GB.
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27)
    frame = decompressor.decompressobj()
    inside = False
    unread = size
    for block in compressed:
        # Small pieces bound the output of a highly compressible block.
        for position in range(0, len(block), _CHUNK):
            piece = block[position : position + _CHUNK]
            while piece:
                inside = True
                try:
                    out = frame.decompress(piece)
                except zstandard.ZstdError as error:
                    raise _damage("zstd", error, unread) from error
                if out:
                    yield out
                unread -= len(piece)
                piece = b""
                if frame.eof:
                    piece = frame.unused_data
                    unread += len(piece)
                    frame = decompressor.decompressobj()
                    inside = False
    if inside:
        raise DamagedFileError(f"the zstd frame is truncated{_ALL_COUNTS}")


def _decompress_members(
    compressed: Iterator[bytes],
    size: int,
    new_member: Callable[[], bz2.BZ2Decompressor | lzma.LZMADecompressor],
    kind: str,
    checked: int | None,
) -> Iterator[bytes]:
    """Decompress members in a row, with zero padding between and after them.

    Errors do not tell a wrong checksum, so that damage is up to `checked` bytes before them (None:
    as many as the member has).
    """
    member = new_member()
    inside = False
    unread = of_member = size
    for block in compressed:
        data = block
        while data:
            if not inside:
                stripped = data.lstrip(b"\0")
                unread -= len(data) - len(stripped)
                data, of_member = stripped, unread
                if not data:
                    break
            inside = True
            try:
                yield member.decompress(data, BLOCK)
                while not member.eof and not member.needs_input:
                    yield member.decompress(b"", BLOCK)
            except (OSError, ValueError, EOFError, lzma.LZMAError) as error:
                left = of_member if checked is None else min(of_member, unread + checked)
                raise DamagedFileError(f"{kind}: {error}", unread=left) from error
            unread -= len(data)
            data = b""
            if member.eof:
                data = member.unused_data
                unread += len(data)
                member = new_member()
                inside = False
    if inside:
        raise DamagedFileError(f"the {kind} stream is truncated{_ALL_COUNTS}")


def _bunzip(compressed: Iterator[bytes], size: int) -> Iterator[bytes]:
    return _decompress_members(compressed, size, bz2.BZ2Decompressor, "bzip2", _BZIP2_CHECKED)


def _unxz(compressed: Iterator[bytes], size: int) -> Iterator[bytes]:
    def new_member() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)

    return _decompress_members(compressed, size, new_member, "xz", None)


_DECOMPRESS: dict[Compression, Callable[[Iterator[bytes], int], Iterator[bytes]]] = {
    "gzip": _gunzip,
    "zstd": _unzstd,
    "bzip2": _bunzip,
    "xz": _unxz,
}


class CountedBlocks:
    """Blocks of a range with the count of their bytes, to tell how much damage leaves unread."""

    def __init__(self, blocks: Iterator[bytes], input_bytes: int) -> None:
        self._blocks, self._input_bytes = blocks, input_bytes
        self._size = 0

    def __iter__(self) -> CountedBlocks:
        return self

    def __next__(self) -> bytes:
        block = next(self._blocks)
        self._size += len(block)
        return block

    def left_after(self, position: int) -> int | None:
        """Return the bytes on disk from a position of the text on; None if they are unknown.

        What is left is decompressed for it, except where the range has no bytes to account for:
        these are the same share of the range.
        """
        if not self._input_bytes:
            return None
        try:
            for _ in self:
                pass
        except (DamagedFileError, OSError):
            return None
        return self._input_bytes * (self._size - position) // max(1, self._size)


def split_lines(stream: Iterator[bytes], maximum_bytes: int) -> Iterator[bytes | OversizedLine]:
    """Yield lines without line ends; an OversizedLine for one longer than `maximum_bytes`."""
    parts: list[bytes] = []  # parts of the incomplete line
    length = 0
    skipping = False
    for block in stream:
        pieces = block.split(b"\n")
        for piece in pieces[:-1]:
            if skipping:
                yield OversizedLine(length + len(piece))
                skipping, length = False, 0
                continue
            if parts:
                parts.append(piece)
                line = b"".join(parts)
                parts, length = [], 0
            else:
                line = piece
            if len(line) > maximum_bytes:
                yield OversizedLine(len(line))
            else:
                yield line[:-1] if line.endswith(b"\r") else line
        rest = pieces[-1]
        if not rest:
            continue
        length += len(rest)
        if not skipping:
            parts.append(rest)
            if length > maximum_bytes:
                parts, skipping = [], True
    if skipping:
        yield OversizedLine(length)
    elif parts:
        line = b"".join(parts)
        yield line[:-1] if line.endswith(b"\r") else line
