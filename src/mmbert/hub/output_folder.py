"""Atomic output folders: written to a temporary folder, then renamed."""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmbert.errors import OutputError

_WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)


def require_absent(out: Path) -> None:
    """Raise OutputError if `out` exists, before any work."""
    if out.exists():
        raise OutputError(f"{out} already exists", remedy="give another folder, or remove this one")


@contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to `out` when the block succeeds.

    On an error the temporary folder is removed. Raises OutputError if `out` exists (nothing is
    overwritten), its parent is not writable, or the disk is full.
    """
    require_absent(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise OutputError(
            f"cannot create {out}: {error.strerror}", remedy="give a writable folder"
        ) from error
    try:
        yield temporary
        temporary.chmod(0o755)  # mkdtemp makes it private
        for path in temporary.rglob("*"):
            _fsync(path)
        _fsync(temporary)
        os.rename(temporary, out)
        _fsync(out.parent)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):  # another process was faster
            require_absent(out)
        if error.errno not in _WRITE_ERRORS:
            raise
        raise OutputError(
            f"cannot write {out}: {error.strerror}",
            remedy="free some space or give another folder; no partial output remains",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, values: dict[str, Any] | list[dict[str, Any]]) -> None:
    """Write `values` as JSON in the format of Hugging Face: UTF-8, indent 2, final newline."""
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
