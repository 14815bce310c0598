"""Committed checkpoints of a run, found by their folders' names; needs no torch."""

import re
from pathlib import Path

from mmbert.checkpoint.format import Index
from mmbert.errors import UserError

FOLDER = re.compile(r"step-(\d{8,})")


def list_checkpoints(root: Path) -> list[Path]:
    """Return the committed checkpoints in `root`, oldest first, without verifying them."""
    if not root.is_dir():
        return []
    return sorted((p for p in root.iterdir() if FOLDER.fullmatch(p.name)), key=step_of)


def step_of(checkpoint: Path) -> int:
    """Return the step in the name of a checkpoint folder."""
    return int(checkpoint.name.removeprefix("step-"))


def newest_complete_step(root: Path) -> int:
    """Return the step of the newest checkpoint whose files have their sizes; 0 if there is none.

    Reads the indexes only: the ranks verify the contents before they load them.
    """
    for path in reversed(list_checkpoints(root)):
        try:
            files = Index.read(path).files
            if all((path / name).stat().st_size == entry.bytes for name, entry in files.items()):
                return step_of(path)
        except (UserError, OSError):
            continue
    return 0
