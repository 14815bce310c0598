"""Owner file of a folder: reading it, its age, and putting one in its place."""

import contextlib
import errno
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from mmbert.ownership.identity import Identity

_GUARD_SECONDS = 2.0
_CLOCK = ".owner-clock-"
# Errors of a file system without hard links, or without locks.
_UNSUPPORTED = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EINVAL, errno.ENOLCK)


OWNER_NAME = "owner.json"


def is_owner_file(path: Path) -> bool:
    """Return whether a file belongs to the ownership of its folder, not to its contents."""
    return path.name == OWNER_NAME or path.name.startswith((f".{OWNER_NAME}", _CLOCK))


@dataclass(frozen=True)
class OwnerFile:
    """Contents of an owner file (None: damaged), and its modification time."""

    identity: Identity | None
    renewed: float


def read_owner_file(path: Path) -> OwnerFile | None:
    """Read an owner file; None if it is missing."""
    try:
        with path.open("rb") as file:
            data, renewed = file.read(), os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None
    try:
        return OwnerFile(Identity.model_validate_json(data), renewed)
    except ValidationError:
        return OwnerFile(None, renewed)


def now_in(folder: Path) -> float:
    """Return the time by the clock of the folder's file system: that of a file written now."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=_CLOCK) as file:
        file.write(b"now")
        file.flush()
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_mtime


@contextlib.contextmanager
def draft_of(path: Path, me: Identity) -> Iterator[Path]:
    """Yield a complete owner file beside `path`, which is removed unless it was moved."""
    draft = path.with_name(f".{path.name}-{me.token}")
    try:
        with draft.open("xb") as file:
            file.write(me.model_dump_json(indent=1, exclude_none=True).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def create(draft: Path, path: Path) -> bool:
    """Give the draft its name unless there is an owner file; return whether there was none."""
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        if path.exists():
            return False
        os.replace(draft, path)
    return True


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Let one process at a time judge and replace the owner, where the file system has locks.

    Not for longer than `_GUARD_SECONDS`: a process that was suspended here would block all others.
    Without the lock, the later of two that take a folder at one moment gets it, and the check
    before a write stops the other.
    """
    guard, deadline = path.with_name(f".{path.name}.guard"), time.monotonic() + _GUARD_SECONDS
    with contextlib.ExitStack() as stack:
        while time.monotonic() < deadline:
            with contextlib.ExitStack() as attempt:
                file = attempt.enter_context(guard.open("a", encoding="utf-8"))
                if _lock(file) and _is_at(file, guard):
                    # Removed before it is unlocked: whoever waits for it finds that and opens anew.
                    attempt.callback(guard.unlink, missing_ok=True)
                    stack.push(attempt.pop_all())
                    break
            time.sleep(0.02)
        yield


def _lock(file: IO[str]) -> bool:
    """Lock a file; return whether that succeeded, or the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    return True


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
