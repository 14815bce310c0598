"""Owner of an output folder: the run that writes it; that of a dead run is taken over."""

from __future__ import annotations

from pathlib import Path

from mmbert.ownership import FolderOwner, OwnerWitness, take_folder


def output_lock(path: Path) -> FolderOwner:
    """Own the output folder by the lock file `path`; to be released, or used in a `with` block.

    Raises OutputError if another run owns it.
    """
    return take_folder(path.parent, what=_what(path), name=path.name)


def lock_witness(path: Path) -> OwnerWitness:
    """Return a check for the other workers of the run that owns the output folder now."""
    return OwnerWitness(path, _what(path))


def _what(path: Path) -> str:
    return f"the output folder {path.parent.parent}"
