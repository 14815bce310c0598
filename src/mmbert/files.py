"""Small file helpers: atomic writes, checksums, safetensors heads, read-only memory maps."""

from __future__ import annotations

import contextlib
import errno
import json
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import xxhash

from mmbert.errors import UserError

_READ_SIZE = 1 << 22


def checksum_file(path: Path) -> str:
    """XXH3-128 of a file's bytes as 32 hexadecimal digits, read in pieces of 4 MiB."""
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while block := file.read(_READ_SIZE):
            digest.update(block)
    return digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable; file systems that cannot are left alone."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Make all files and folders in `folder` durable, but for its own name."""
    for path in folder.iterdir():
        if path.is_dir():
            sync_tree(path)
        else:
            with open(path, "rb") as file:
                os.fsync(file.fileno())
    sync_folder(folder)


def make_folder(folder: Path) -> None:
    """Make `folder` and what is missing above it, durable: a folder whose own entry was not synced
    may be lost with all that was synced in it."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


@contextlib.contextmanager
def explained_write_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or an exceeded quota into a UserError that names the file."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"no space left while writing {path}",
                remedy="free disk space (or choose another output folder) and run the same "
                "command again: what is already written is kept",
            ) from error
        raise


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that appears under `path` only when the block ends without an error.

    The bytes go to `<path>.partial`, which is flushed, synced and renamed. On an error the
    partial file is removed and whatever was at `path` before stays.
    """
    partial = path.with_name(path.name + ".partial")
    with explained_write_errors(path):
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
    """Write `value` as JSON so that the file appears complete or not at all."""
    with atomic_write(path) as file:
        file.write((json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode())


def safetensors_header(
    tensors: Mapping[str, tuple[str, Sequence[int], int]], metadata: Mapping[str, str] | None = None
) -> tuple[bytes, dict[str, int]]:
    """The head of a safetensors file whose tensors follow each other in the order given.

    The format is 8 bytes of length, JSON, then the tensors. Written here because safetensors' own
    writer takes all tensors at once, in copies, and cannot be asked for a checksum as it goes.

    Args:
        tensors: for each name its dtype as the format spells it ("F32"), its shape and its bytes.
        metadata: what the file says of itself; None: nothing.

    Returns:
        The head, and where each tensor starts behind it, in bytes.
    """
    entries: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    offsets, end = {}, 0
    for name, (dtype, shape, size) in tensors.items():
        offsets[name] = end
        end += size
        entries[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [offsets[name], end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, offsets


def cut_short(path: Path, size: int, expected: int) -> UserError:
    """What to say of a file that became shorter while it was in use."""
    return UserError(
        f"{path} was cut short while it was being read: it has {size} bytes of {expected}",
        remedy="restore it from a copy or make it again, and leave shards alone while they are "
        "read (put a new file in an old one's place by renaming it)",
    )


class MappedFile:
    """A file as a read-only flat uint8 array `data`, backed by a memory map.

    Costs one descriptor as long as it is open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = np.empty(0, dtype=np.uint8)
        self._map: mmap.mmap | None = None
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:  # cannot be mapped
                return
            self._map = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        self.data = np.frombuffer(self._map, dtype=np.uint8)

    def require_whole(self) -> None:
        """Raise UserError if the file was cut short since it was mapped.

        Reading past its new end would end the process (SIGBUS) without a word. A file that was
        renamed over is another one: the map keeps the old. Costs a third of a microsecond.
        """
        if self._map is not None and self._map.size() < len(self.data):
            raise cut_short(self.path, self._map.size(), len(self.data))

    def read_ahead(self, start: int, end: int) -> None:
        """Ask the system to read bytes `start` … `end` in the background."""
        if self._map is not None and end > start:
            first = start - start % mmap.PAGESIZE
            self._map.madvise(mmap.MADV_WILLNEED, first, end - first)
