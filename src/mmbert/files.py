"""Atomic, durable file writes, checksums, and text with byte order marks."""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import xxhash

from mmbert.errors import OutputError

_READ_SIZE = 1 << 22
# Mark -> encoding, of which the decoder removes the mark. UTF-32's begins with UTF-16's.
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def marked_encoding(start: bytes) -> str | None:
    """Return the encoding named by a byte order mark at the start of a file; None without one."""
    return next((name for mark, name in _BYTE_ORDER_MARKS.items() if start.startswith(mark)), None)


def read_text(path: Path) -> str:
    """Return the text of a file that somebody wrote: UTF-8, or what its byte order mark says.

    Spreadsheets and Windows editors write marks, and UTF-16. Line ends become line feeds. Reads
    the file once, so that it may be a pipe. Raises OSError or UnicodeDecodeError.
    """
    data = path.read_bytes()
    encoding = marked_encoding(data) or "utf-8"
    if encoding == "utf-8" and (place := data.find(b"\0")) >= 0:
        reason = "a zero byte, as in UTF-16, but no byte order mark"
        raise UnicodeDecodeError(encoding, data, place, place + 1, reason)
    return io.TextIOWrapper(io.BytesIO(data), encoding=encoding).read()


def parse_json(text: str | bytes) -> Any:
    """Parse JSON that may be damaged. Raises ValueError, also if it nests too deeply."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it nests too deeply") from error


def checksum_file(path: Path) -> str:
    """Return the XXH3-128 of a file as 32 hexadecimal digits, reading 4 MiB at a time."""
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while block := file.read(_READ_SIZE):
            digest.update(block)
    return digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable, where the file system supports it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Make all files and folders in `folder` durable, but not its own directory entry."""
    for path in folder.iterdir():
        if path.is_dir():
            sync_tree(path)
        else:
            with open(path, "rb") as file:
                os.fsync(file.fileno())
    sync_folder(folder)


def make_folder(folder: Path) -> None:
    """Create `folder` and missing parents durably.

    Without a synced directory entry, a folder may be lost together with its synced contents.

    Raises:
        OutputError: `folder` or a parent is a file.
    """
    if folder.is_dir():
        return
    # Another process may have created it since.
    if folder.exists() and not folder.is_dir():
        raise OutputError(
            f"{folder} is a file, not a folder", remedy="name a folder, or move the file"
        )
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


class NoSpaceError(OutputError):
    """The disk is full, or the quota is used up."""


def lacks_space(error: BaseException | None) -> bool:
    """Return whether a full disk or an exceeded quota is the error, or what led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, NoSpaceError):
            return True
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def explained_write_errors(path: Path) -> Iterator[None]:
    """Convert a full disk or an exceeded quota to a NoSpaceError that names the file."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpaceError(
                f"no space left while writing {path}",
                remedy="free disk space (or choose another output folder) and run the same "
                "command again: finished files are kept",
            ) from error
        raise


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a binary file that appears at `path` only if the block succeeds.

    Data is written to `<path>.partial`, which is flushed, synced and renamed. On an error the
    partial file is removed and the previous file at `path` stays. What is no regular file, such as
    /dev/null or a pipe, is written to directly: a rename would put a file in its place.
    """
    partial = path.with_name(path.name + ".partial")
    with explained_write_errors(path):
        if path.exists() and not (path.is_file() or path.is_dir()):
            with open(path, "wb") as file:
                yield file
            return
        try:
            with open(partial, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON atomically."""
    with atomic_write(path) as file:
        file.write((json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode())
