"""Streams of bytes and lines from plain, gzip, zstd, bzip2 and xz files.

Streams are iterators of blocks: memory is bounded by a block and the longest allowed line,
regardless of the size of the file. A truncated compressed file yields everything before the damage,
then raises DamagedFileError.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator

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
_XZ_MEMORY = 256 << 20  # xz -9 needs 65 MB; files made with larger dictionaries up to 4 GB


class DamagedFileError(Exception):
    """A file cannot be read further. The message has the reason."""


class OversizedLine:
    """Placeholder for a skipped line that is longer than allowed."""


OVERSIZED_LINE = OversizedLine()


def read_blocks(path: str, compression: Compression, start: int, stop: int) -> Iterator[bytes]:
    """Yield decompressed blocks of a file. `start` and `stop` apply to uncompressed files only."""
    with open(path, "rb") as file:
        if compression == "none":
            file.seek(start)
            remaining = stop - start
            while remaining > 0:
                block = file.read(min(BLOCK, remaining))
                if not block:
                    raise DamagedFileError(f"it is truncated ({remaining} bytes are missing)")
                remaining -= len(block)
                yield block
            return
        compressed = iter(lambda: file.read(BLOCK), b"")
        yield from _DECOMPRESS[compression](compressed)


def _gunzip(compressed: Iterator[bytes]) -> Iterator[bytes]:
    member = zlib.decompressobj(wbits=31)
    inside = False
    for block in compressed:
        data = block
        while data:
            if not inside and not data.strip(b"\0"):
                break  # zero padding after the last member, from tape and block devices
            inside = True
            try:
                out = member.decompress(data, BLOCK)
                yield out
                # After a full block there may be more output, with or without unconsumed input.
                while not member.eof and (member.unconsumed_tail or len(out) == BLOCK):
                    out = member.decompress(member.unconsumed_tail, BLOCK)
                    yield out
            except zlib.error as error:
                raise DamagedFileError(f"gzip: {error}") from error
            data = b""
            if member.eof:
                data = member.unused_data
                member = zlib.decompressobj(wbits=31)
                inside = False
    if inside:
        raise DamagedFileError("the gzip stream is truncated")


def _unzstd(compressed: Iterator[bytes]) -> Iterator[bytes]:
    # zstd -d has the same limit of 128 MB; frames made with --long need up to 2 GB.
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27)
    frame = decompressor.decompressobj()
    inside = False
    for block in compressed:
        # Small pieces bound the output of a highly compressible block.
        for position in range(0, len(block), _CHUNK):
            piece = block[position : position + _CHUNK]
            while piece:
                inside = True
                try:
                    out = frame.decompress(piece)
                except zstandard.ZstdError as error:
                    raise DamagedFileError(f"zstd: {error}") from error
                if out:
                    yield out
                piece = b""
                if frame.eof:
                    piece = frame.unused_data
                    frame = decompressor.decompressobj()
                    inside = False
    if inside:
        raise DamagedFileError("the zstd frame is truncated")


def _decompress_members(
    compressed: Iterator[bytes],
    new_member: Callable[[], bz2.BZ2Decompressor | lzma.LZMADecompressor],
    kind: str,
) -> Iterator[bytes]:
    """Decompress members in a row, with zero padding between and after them."""
    member = new_member()
    inside = False
    for block in compressed:
        data = block
        while data:
            if not inside and not (data := data.lstrip(b"\0")):
                break
            inside = True
            try:
                yield member.decompress(data, BLOCK)
                while not member.eof and not member.needs_input:
                    yield member.decompress(b"", BLOCK)
            except (OSError, ValueError, EOFError, lzma.LZMAError) as error:
                raise DamagedFileError(f"{kind}: {error}") from error
            data = b""
            if member.eof:
                data = member.unused_data
                member = new_member()
                inside = False
    if inside:
        raise DamagedFileError(f"the {kind} stream is truncated")


def _bunzip(compressed: Iterator[bytes]) -> Iterator[bytes]:
    return _decompress_members(compressed, bz2.BZ2Decompressor, "bzip2")


def _unxz(compressed: Iterator[bytes]) -> Iterator[bytes]:
    def new_member() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)

    return _decompress_members(compressed, new_member, "xz")


_DECOMPRESS: dict[Compression, Callable[[Iterator[bytes]], Iterator[bytes]]] = {
    "gzip": _gunzip,
    "zstd": _unzstd,
    "bzip2": _bunzip,
    "xz": _unxz,
}


def split_lines(stream: Iterator[bytes], maximum_bytes: int) -> Iterator[bytes | OversizedLine]:
    """Yield lines without line ends; OVERSIZED_LINE for a line longer than `maximum_bytes`."""
    parts: list[bytes] = []  # parts of the incomplete line
    length = 0
    skipping = False
    for block in stream:
        pieces = block.split(b"\n")
        for piece in pieces[:-1]:
            if skipping:
                skipping = False
                yield OVERSIZED_LINE
                continue
            if parts:
                parts.append(piece)
                line = b"".join(parts)
                parts, length = [], 0
            else:
                line = piece
            if len(line) > maximum_bytes:
                yield OVERSIZED_LINE
            else:
                yield line[:-1] if line.endswith(b"\r") else line
        rest = pieces[-1]
        if rest and not skipping:
            parts.append(rest)
            length += len(rest)
            if length > maximum_bytes:
                parts, length, skipping = [], 0, True
    if skipping:
        yield OVERSIZED_LINE
    elif parts:
        line = b"".join(parts)
        yield line[:-1] if line.endswith(b"\r") else line
