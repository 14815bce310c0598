"""Copies of the working tree in which faults are applied; the tree itself is never modified."""

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mmbert.errors import UserError
from tests.support.environment import FOLDERS, ON_A_CPU, ROOT, with_packages


def files_of(root: Path = ROOT) -> list[Path]:
    """Return tracked and untracked, not ignored files that exist, relative to `root`."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        raise UserError(
            f"git cannot list the files of {root}: {listed.stderr.strip()}",
            remedy="run it in a clone of the repository",
        )
    return [Path(name) for name in listed.stdout.split("\0") if name and (root / name).is_file()]


def fingerprint(root: Path = ROOT) -> str:
    """Return a hash of everything that affects a verdict except the patch itself."""
    digest = hashlib.sha256()
    for path in sorted(files_of(root)):
        if path.suffix not in (".md", ".patch"):
            content = hashlib.sha256((root / path).read_bytes()).digest()
            digest.update(str(path).encode() + b"\0" + content)
    return digest.hexdigest()


@contextlib.contextmanager
def copy_of_the_tree(root: Path = ROOT) -> Iterator[Path]:
    """Yield a temporary copy of the tree.

    Every run needs a new one, or it would reuse compiled files and Hypothesis examples of another
    fault.
    """
    with tempfile.TemporaryDirectory(prefix="mutation-", ignore_cleanup_errors=True) as folder:
        place = Path(folder).resolve() / "tree"
        for path in files_of(root):
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / path, place / path)
        yield place


def environment_in(copy: Path, changes: dict[str, str]) -> dict[str, str]:
    """Return this process's environment with the copy's packages ahead of the working tree's."""
    return with_packages(*(copy / folder for folder in FOLDERS), **ON_A_CPU, **changes)


def apply(patch: Path, copy: Path, *, check: bool = False) -> str:
    """Apply a patch to the copy, or only test whether it applies (`check`).

    Returns:
        The reason why it failed, "" on success.
    """
    # Inside another repository, git would silently skip all files.
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(copy.parent)}
    options = ["--whitespace=nowarn", *(["--check"] if check else [])]
    command = ["git", "apply", *options, str(patch.resolve())]
    applied = subprocess.run(
        command, cwd=copy, env=environment, capture_output=True, text=True, check=False
    )
    return "" if applied.returncode == 0 else f"does not apply: {applied.stderr.strip()}"
