"""What a module of `readers/formats` declares: one `FileFormat`, listed in `readers/registry`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mmbert_prep.readers.documents import Document, FileRange, InputFile
from mmbert_prep.settings import InputSettings


def _whole_file(file: InputFile, unit_bytes: int, settings: InputSettings) -> list[FileRange]:
    return file.whole()


def _no_companions(paths: Sequence[str]) -> Mapping[str, str | None]:
    return {}


@dataclass(frozen=True)
class FileFormat:
    """An input format: how its files are found, divided into ranges and read."""

    name: str
    read: Callable[[FileRange, InputSettings], Iterator[Document]]
    """Yield the documents of a range. Raises DamagedFileError where the file is unreadable."""
    plan: Callable[[InputFile, int, InputSettings], list[FileRange]] = _whole_file
    """Divide a file into ranges of about so many input bytes, in file order."""
    suffixes: tuple[str, ...] = ()
    """File names of the format end with one of these; the first is the one for messages."""
    compressible: bool = True
    """Whether a file may also be compressed as a whole (`.gz`, `.zst`)."""
    needs_language: bool = False
    """Whether the language must come from the path, as records have no columns."""
    expansion: int = 1
    """Approximate bytes of text per byte of an uncompressed file, for progress."""
    local: bool = True
    """Whether its inputs are files of this machine, with a size and a modification time."""
    companions: Callable[[Sequence[str]], Mapping[str, str | None]] = _no_companions
    """Among the paths, those that belong to files of this format and are no input themselves: path
    -> why, or None to leave them out of the list of ignored files."""
