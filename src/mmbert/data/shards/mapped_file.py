"""Files as read-only memory maps that notice when they are cut short."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np

from mmbert.errors import UserError


def truncated_error(path: Path, size: int, expected: int) -> UserError:
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

    def check_not_truncated(self) -> None:
        """Raise UserError if the file was cut short since it was mapped.

        Reading past its new end would end the process (SIGBUS) without a word. A file that was
        renamed over is another one: the map keeps the old. Costs a third of a microsecond.
        """
        if self._map is not None and self._map.size() < len(self.data):
            raise truncated_error(self.path, self._map.size(), len(self.data))

    def read_ahead(self, start: int, end: int) -> None:
        """Ask the system to read bytes `start` … `end` in the background."""
        if self._map is not None and end > start:
            first = start - start % mmap.PAGESIZE
            self._map.madvise(mmap.MADV_WILLNEED, first, end - first)
