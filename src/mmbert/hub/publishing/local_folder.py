"""Revisions in a local folder: one folder each, and `main`, a link to the newest."""

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from mmbert.errors import OutputError
from mmbert.files import sync_folder
from mmbert.hub.publishing.place import MAIN, Place, is_revision
from mmbert.hub.publishing.publication import (
    PUBLICATION_NAME,
    Publication,
    parse_publication,
)
from mmbert.ownership import take_folder


class LocalFolder(Place):
    """`OUT/step-00002000/`, … and `OUT/main` → the newest, each a Hugging Face folder.

    One process at a time writes there. Hidden folders are revisions that were not finished.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._stack = ExitStack()

    def __str__(self) -> str:
        """Return the path."""
        return str(self.root)

    def __enter__(self) -> Self:
        """Own the folder, and remove what an interrupted publication left."""
        self._stack.enter_context(take_folder(self.root, what=f"the publication {self.root}"))
        for entry in self.root.iterdir():
            hidden, _, rest = entry.name.partition(".step-")
            if not hidden and rest:
                shutil.rmtree(entry, ignore_errors=True)
        return self

    def __exit__(self, *exception: object) -> None:
        """Release the folder."""
        self._stack.close()

    def published(self) -> dict[str, Publication]:
        """Return the revisions in the folder; none if it does not exist."""
        if not self.root.is_dir():
            return {}
        main = self.root / MAIN
        if main.exists() and not main.is_symlink():
            raise OutputError(
                f"{main} is not a link to a revision",
                remedy="give another folder, or move it away",
            )
        found = {}
        for folder in sorted(self.root.iterdir()):
            if not is_revision(folder.name):
                continue
            path = folder / PUBLICATION_NAME
            if not path.is_file():
                raise OutputError(
                    f"{folder} was not written by mmbert publish",
                    remedy="give another folder, or move it away",
                )
            found[folder.name] = parse_publication(path.read_bytes(), str(path))
        return found

    def publish(self, name: str, step: int, build: Callable[[Path], Publication]) -> Publication:
        """Let `build` write the revision's folder, which it does under another name first."""
        return build(self.root / name)

    def set_main(self) -> str:
        """Point the link `main` at the newest revision, in one step."""
        name = max(
            (one.name for one in self.root.iterdir() if is_revision(one.name)),
            key=lambda revision: int(revision.removeprefix("step-")),
        )
        main = self.root / MAIN
        if not main.is_symlink() or os.readlink(main) != name:
            draft = self.root / f".{MAIN}"
            draft.unlink(missing_ok=True)
            draft.symlink_to(name, target_is_directory=True)
            os.replace(draft, main)
            sync_folder(self.root)
        return name
