"""Interface of the modules in `readers/formats`: each declares one `FileFormat`."""

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
    """An input format: discovery, division and reading of its files."""

    name: str
    read: Callable[[FileRange, InputSettings], Iterator[Document]]
    """Yield the documents of a range. Raises DamagedFileError where the file is unreadable."""
    plan: Callable[[InputFile, int, InputSettings], list[FileRange]] = _whole_file
    """Divide a file into ranges of about so many input bytes, in file order."""
    suffixes: tuple[str, ...] = ()
    """Ends of file names. Messages use the first one."""
    compressible: bool = True
    """Files may be compressed as a whole (`.gz`, `.zst`)."""
    needs_language: bool = False
    """The path must name the language, as records have no columns."""
    expansion: int = 1
    """Approximate bytes of text per byte of an uncompressed file, for progress."""
    local: bool = True
    """Inputs are local files, with a size and a modification time."""
    companions: Callable[[Sequence[str]], Mapping[str, str | None]] = _no_companions
    """Select paths that belong to files of this format and are not inputs themselves.

    Path -> reason for the list of ignored files, or None to omit it from that list.
    """
