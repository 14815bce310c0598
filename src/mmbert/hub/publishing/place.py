"""Where revisions are published: what the command needs of a folder and of the hub alike."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Self

from mmbert.hub.publishing.publication import Publication

MAIN = "main"
_REVISION = re.compile(r"step-\d{8,}")


def is_revision(name: str) -> bool:
    """Return whether `name` is one that a checkpoint's revision has."""
    return _REVISION.fullmatch(name) is not None


def revision_of(step: int) -> str:
    """Return the name of the revision of a step, which is that of the checkpoint's folder."""
    return f"step-{step:08d}"


class Place(ABC):
    """Revisions by name, each there as a whole or not at all."""

    @abstractmethod
    def __str__(self) -> str:
        """Return the place for messages."""

    @abstractmethod
    def published(self) -> dict[str, Publication]:
        """Return what is there, by name. Changes nothing.

        Raises:
            OutputError: out of reach, or a revision that this command did not write.
        """

    @abstractmethod
    def __enter__(self) -> Self:
        """Create the place if it is missing, and make it ready to be written."""

    @abstractmethod
    def __exit__(self, *exception: object) -> None:
        """Leave the place."""

    def finish_interrupted(self, name: str, checkpoint: str) -> bool:
        """Name a revision that is there as a whole, but whose name was not yet given to it.

        Args:
            checkpoint: identity of the checkpoint that it must be made from.

        Returns:
            Whether there was one.
        """
        return False

    @abstractmethod
    def publish(self, name: str, step: int, build: Callable[[Path], Publication]) -> Publication:
        """Let `build` write the folder it is given, and publish that as the revision `name`."""

    @abstractmethod
    def set_main(self) -> str:
        """Make `main` the newest of all revisions that are there; return its name."""
