"""Interface of the modules in `readers/formats`: each declares one `FileFormat`.

Every range accounts for its input bytes (`readers/accounting.py`), for which a format does this:

- `plan` gives ranges whose `input_bytes` add up to about the size of the file, or
  `file.unreadable(problem)`, which loses all of it.
- `read` yields every record, also one that it cannot use: `Document.reject(language, reason,
  size=…)`. `size` is the record's bytes after decompression; without it the mean of the range
  counts. If the text is not most of a record (JSON, many columns), good documents have it, too.
- Where it cannot go on, it raises `DamagedFileError(message, unread=…)` with the bytes on disk that
  are left, or without them where they are unknown, as in a file cut short: all of the range counts.
  `streams.CountedBlocks` has them for text whose rest may be the inside of a record.
- Without the column of the text, it passes the names of those that are there as `columns`: to the
  error where no record can have a text, else to `Document.reject` as `MISSING_TEXT`.

`tests/data_prep/readers/test_accounting.py` holds each format to this, with its sample file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mmbert_prep.readers.documents import Compression, Document, FileRange, InputFile
from mmbert_prep.settings import InputSettings


def _whole_file(file: InputFile, unit_bytes: int, settings: InputSettings) -> list[FileRange]:
    return file.whole()


def _no_companions(paths: Sequence[str]) -> Mapping[str, str | None]:
    return {}


def no_languages(path: str, compression: Compression, settings: InputSettings) -> bool:
    """Return False: records of the format never name a language."""
    return False


def _any_languages(path: str, compression: Compression, settings: InputSettings) -> bool:
    return True


@dataclass(frozen=True)
class FileFormat:
    """An input format: discovery, division and reading of its files."""

    name: str
    read: Callable[[FileRange, InputSettings], Iterator[Document]]
    """Yield the records of a range. Raises DamagedFileError where the file is unreadable."""
    plan: Callable[[InputFile, int, InputSettings], list[FileRange]] = _whole_file
    """Divide a file into ranges of about the given input bytes, in file order."""
    suffixes: tuple[str, ...] = ()
    """File name extensions. Messages use the first one."""
    compressible: bool = True
    """Whether files may be compressed as a whole (`.gz`, `.zst`, `.bz2`, `.xz`)."""
    may_be_empty: bool = False
    """Whether an uncompressed file of no bytes is sound. Else it was cut short, and is unread."""
    has_languages: Callable[[str, Compression, InputSettings], bool] = _any_languages
    """Return whether the records of a file may name their language. Else its path must."""
    expansion: int = 1
    """Approximate bytes of text per byte of an uncompressed file, for progress."""
    local: bool = True
    """Whether inputs are local files, with a size and a modification time."""
    check_conditions: Callable[[InputFile, InputSettings], None] | None = None
    """Check the conditions of `--where` against the columns of a file, before it is read.

    Raises ArgumentError if they do not fit. None: records of the format have no columns.
    """
    companions: Callable[[Sequence[str]], Mapping[str, str | None]] = _no_companions
    """Select auxiliary files of this format, which are not inputs themselves.

    Path -> reason in the list of ignored files; None omits the path from that list.
    """
