"""Output folders that appear complete or not at all: written beside their place, then renamed."""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmbert.errors import UserError

_WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)


@contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """A temporary folder that becomes `out` when the block ends without an error.

    UserError if `out` exists (nothing is ever overwritten) or its parent cannot be written.
    On an error the temporary folder is removed and `out` does not exist.
    """
    if out.exists():
        raise UserError(f"{out} exists already", remedy="give another folder, or remove this one")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise UserError(
            f"cannot write beside {out}: {error.strerror}", remedy="give a folder you can write to"
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
        if error.errno not in _WRITE_ERRORS:
            raise
        raise UserError(
            f"cannot write {out}: {error.strerror}",
            remedy="free some space or give another folder; nothing was left behind",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write `values` as Hugging Face's tools do: UTF-8, indented by two, a newline at the end."""
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
