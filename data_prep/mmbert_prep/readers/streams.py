"""Byte streams of plain, gzip and zstd files, cut into lines of bounded length.

Everything is an iterator of blocks, so memory is a block and the longest allowed line, whatever the
size of the file. A compressed file that ends in the middle raises DamagedFileError after everything
before the damage was given.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import zstandard

from mmbert_prep.readers.documents import Compression

BLOCK = 1 << 20
_CHUNK = 512  # compressed bytes given to zstd at once: at most some 20 MB when decompressed


class DamagedFileError(Exception):
    """The file cannot be read further; the message says why."""


class OversizedLine:
    """Stands for a line that is longer than allowed and was skipped."""


OVERSIZED_LINE = OversizedLine()


def read_blocks(path: str, compression: Compression, start: int, stop: int) -> Iterator[bytes]:
    """Decompressed blocks of a file; `start` and `stop` are bytes of plain files only."""
    with open(path, "rb") as file:
        if compression == "none":
            file.seek(start)
            remaining = stop - start
            while remaining > 0:
                block = file.read(min(BLOCK, remaining))
                if not block:
                    raise DamagedFileError(f"{remaining} bytes are missing at its end")
                remaining -= len(block)
                yield block
            return
        compressed = iter(lambda: file.read(BLOCK), b"")
        yield from (_gunzip(compressed) if compression == "gzip" else _unzstd(compressed))


def _gunzip(compressed: Iterator[bytes]) -> Iterator[bytes]:
    member = zlib.decompressobj(wbits=31)
    inside = False
    for block in compressed:
        data = block
        while data:
            if not inside and not data.strip(b"\0"):
                break  # zero padding after the last member, as tape and block devices leave it
            inside = True
            try:
                out = member.decompress(data, BLOCK)
                yield out
                # A full block of output may leave more of it, with or without unused input.
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
        raise DamagedFileError("the gzip stream is cut short")


def _unzstd(compressed: Iterator[bytes]) -> Iterator[bytes]:
    # Frames made with --long need a window of up to 2 GB; 128 MB is what zstd -d itself allows.
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27)
    frame = decompressor.decompressobj()
    inside = False
    for block in compressed:
        # A highly compressible block would expand without bound: feed it in small pieces.
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
        raise DamagedFileError("the zstd frame is cut short")


def split_lines(stream: Iterator[bytes], maximum_bytes: int) -> Iterator[bytes | OversizedLine]:
    """Lines without their end; TOO_LONG once for each longer than `maximum_bytes`."""
    parts: list[bytes] = []  # of the line that is not complete yet
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
