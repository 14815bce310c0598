"""Copying of shards to a node's own disk, file by file, verified by the manifests' checksums.

A file is written beside its place under a lock and renamed when its checksum is right. After an
interruption, finished files stay; they are read again at the next start, and are copied anew if
their size or checksum is wrong. Other processes may copy to the same folder at the same time: who
waits for a lock finds the finished file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import xxhash

from mmbert.data.node_copy.copy_plan import PARTIAL, CopiedFile
from mmbert.errors import OutputError, ShardsError

Result = TypeVar("Result")
Steps = Generator[None, None, Result]
"""Work that pauses after every block, and its result."""

_BLOCK = 1 << 22
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_WAIT_SECONDS = 0.05


class Copier:
    """Copies a share of the files; `run` returns after every block, to report and to go on."""

    def __init__(self, origin: Path, folder: Path, files: Sequence[CopiedFile]) -> None:
        self._origin, self._folder, self._files = origin, folder, files
        self.done_bytes = 0
        """Bytes copied, or found and verified."""
        self.copied = self.copied_bytes = self.found = self.damaged = 0
        """Files copied, their bytes, files that were there, and files there with other bytes."""

    def run(self) -> Steps[None]:
        """Copy; yields often.

        Raises:
            OutputError: the disk is full or cannot be written.
            ShardsError: a file of the original is missing or damaged.
        """
        for file in self._files:
            target = self._folder / file.path
            try:
                yield from self._bring(file, target)
            except OSError as error:
                full = error.errno in _FULL
                what = "no space left" if full else f"cannot write ({error.strerror})"
                raise OutputError(
                    f"{what} while copying shards to {target}, for data.copy_to",
                    remedy="free space there, or name another folder in data.copy_to, and run the "
                    "same command again: finished files are kept",
                ) from error

    def _bring(self, file: CopiedFile, target: Path) -> Steps[None]:
        if (yield from self._is_there(file, target)):
            self.found += 1
            return
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = yield from _locked(target.with_name(target.name + PARTIAL))
        with open(descriptor, "wb", buffering=0) as partial:
            # Another process may have finished it while this one waited.
            if (yield from self._is_there(file, target)):
                os.unlink(target.with_name(target.name + PARTIAL))
                self.found += 1
                return
            self.damaged += target.exists()
            try:
                yield from self._copy(file, partial.fileno())
            except BaseException:  # after a kill it stays, and is written anew from its start
                os.unlink(target.with_name(target.name + PARTIAL))
                raise
            os.replace(target.with_name(target.name + PARTIAL), target)
            self.copied += 1

    def _is_there(self, file: CopiedFile, target: Path) -> Steps[bool]:
        """Yield while reading; return whether `target` has the right size and checksum."""
        try:
            source = target.open("rb", buffering=0)
        except FileNotFoundError:
            return False
        before = self.done_bytes
        with source:
            if file.size is not None and os.fstat(source.fileno()).st_size != file.size:
                return False
            digest = xxhash.xxh3_128()
            while block := source.read(_BLOCK):
                digest.update(block)
                self.done_bytes += len(block)
                yield
        if digest.hexdigest() == file.checksum:
            return True
        self.done_bytes = before
        return False

    def _copy(self, file: CopiedFile, partial: int) -> Steps[None]:
        origin = self._origin / file.path
        os.ftruncate(partial, 0)
        digest = xxhash.xxh3_128()
        for block in _blocks(origin):
            digest.update(block)
            view = memoryview(block)
            while view:
                view = view[os.write(partial, view) :]
            self.done_bytes += len(block)
            self.copied_bytes += len(block)
            yield
        if digest.hexdigest() != file.checksum:
            raise ShardsError(
                f"{origin} is corrupted (checksum mismatch), found while copying it for "
                "data.copy_to",
                remedy="restore the file from a copy, or remove summary.json from the source's "
                "folder and run the same preprocessing command again, which remakes the source",
            )


def _blocks(origin: Path) -> Iterator[bytes]:
    """Yield the blocks of a file of the original, whose errors are not those of the copy."""
    try:
        with origin.open("rb", buffering=0) as source:
            while block := source.read(_BLOCK):
                yield block
    except OSError as error:
        raise ShardsError(
            f"cannot read {origin}, to copy it for data.copy_to: {error.strerror}",
            remedy="check that every node sees --data, and run the same command again",
        ) from error


def _locked(partial: Path) -> Steps[int]:
    """Yield until the file at `partial` is locked by this process; return its descriptor.

    The lock ends with its process, so that a file that was being copied then is taken over.
    """
    while True:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(partial, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # It may have been renamed or removed since it was opened.
            if os.path.samestat(os.fstat(descriptor), partial.stat()):
                return descriptor
        except (BlockingIOError, FileNotFoundError):
            pass
        except BaseException:
            os.close(descriptor)
            raise
        with contextlib.suppress(OSError):
            os.close(descriptor)
        time.sleep(_WAIT_SECONDS)
        yield
