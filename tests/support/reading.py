"""Reading of all documents below a path, for the tests of readers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mmbert_prep.readers import Document, plan_ranges, read_range
from mmbert_prep.readers.discovery import discover
from tests.support.texts import settings


def read(path: Path | str, unit_bytes: int = 1 << 40, **changes: object) -> list[Document]:
    """Read all documents of a path, in ranges of about `unit_bytes`."""
    return [*read_lazily(path, unit_bytes, **changes)]


def read_lazily(
    path: Path | str, unit_bytes: int = 1 << 40, **changes: object
) -> Iterator[Document]:
    """Yield what `read` returns."""
    options = settings(path, Path("out"), **changes)
    for file in discover(options).files:
        for file_range in plan_ranges(file, unit_bytes, options):
            yield from read_range(file_range, options)


def texts(found: list[Document]) -> list[str]:
    """Return the texts of the documents that were not rejected."""
    return [document.data.decode() for document in found if document.data is not None]


def reasons(found: list[Document]) -> list[str]:
    """Return the reasons of the documents that were rejected."""
    return [document.rejected.reason for document in found if document.rejected is not None]


def damage(found: list[Document]) -> str:
    """Return the detail of the only rejected document."""
    [rejected] = [document.rejected for document in found if document.rejected is not None]
    return str(rejected.detail)
