"""Registry of input formats. To add one, write a module in `readers/formats` and list it here."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from mmbert.errors import ArgumentError, TextError
from mmbert_prep.readers.documents import Document, FileRange, InputFile
from mmbert_prep.readers.formats.arrow import ARROW
from mmbert_prep.readers.formats.hub_dataset import HUB_DATASET
from mmbert_prep.readers.formats.jsonl import JSONL
from mmbert_prep.readers.formats.mds import MDS
from mmbert_prep.readers.formats.megatron import MEGATRON
from mmbert_prep.readers.formats.parquet import PARQUET
from mmbert_prep.readers.formats.table import TABLE
from mmbert_prep.readers.formats.text import TEXT
from mmbert_prep.readers.rejection import RejectReason
from mmbert_prep.readers.streams import DamagedFileError
from mmbert_prep.settings import InputSettings

FORMATS = {
    file_format.name: file_format
    for file_format in (
        PARQUET,
        JSONL,
        TEXT,
        MDS,
        MEGATRON,
        HUB_DATASET,
        ARROW,
        TABLE,
    )
}
FORMAT_OF_SUFFIX = {
    suffix: file_format for file_format in FORMATS.values() for suffix in file_format.suffixes
}

_COMPRESSED_EXPANSION = 3  # of compressed text


def plan_ranges(file: InputFile, unit_bytes: int, settings: InputSettings) -> list[FileRange]:
    """Divide a file into ranges of about `unit_bytes`, at record boundaries, in file order."""
    return FORMATS[file.format].plan(file, unit_bytes, settings)


def check_conditions(files: Sequence[InputFile], settings: InputSettings) -> None:
    """Check that the conditions of `settings.where` fit the columns of all files.

    Raises ArgumentError, naming the first file that they do not fit, or those without columns.
    """
    checks = [(FORMATS[file.format].check_conditions, file) for file in files]
    without = [file.path for check, file in checks if check is None]
    if without:
        more = f", … {len(without) - 5} more" if len(without) > 5 else ""
        raise ArgumentError(
            f"--where needs columns, which these files do not have: {', '.join(without[:5])}{more}",
            remedy="preprocess these files as a source of their own, without --where",
        )
    with ThreadPoolExecutor(8) as pool:  # mostly waits for the file system
        for _ in pool.map(lambda each: each[0] and each[0](each[1], settings), checks):
            pass


def expansion(file_range: FileRange) -> int:
    """Return the approximate bytes of text per byte on disk."""
    if file_range.compression != "none":
        return _COMPRESSED_EXPANSION
    return FORMATS[file_range.format].expansion


def read_range(file_range: FileRange, settings: InputSettings) -> Iterator[Document]:
    """Yield the documents of a range.

    The last document of a damaged file is rejected as `damaged_file`, with path and error as
    detail, and with the unread bytes of the range as its size. Raises TextError if the file changed
    after planning.
    """
    if file_range.problem is not None:
        yield damage_found_in_planning(file_range)
        return
    _check_unchanged(file_range)
    try:
        yield from FORMATS[file_range.format].read(file_range, settings)
    except (DamagedFileError, OSError) as error:
        _check_unchanged(file_range)  # a replaced file looks damaged, too
        # Documents before the damage are kept; the rest of the range is lost and reported.
        yield _damaged(file_range, error)
    _check_unchanged(file_range)


def damage_found_in_planning(file_range: FileRange) -> Document:
    """Return the only document of a range that has a `problem`."""
    return _damaged(file_range, DamagedFileError(file_range.problem or ""))


def _check_unchanged(file_range: FileRange) -> None:
    if not FORMATS[file_range.format].local:
        return  # the revision is part of the name
    try:
        status = os.stat(file_range.path)
        same = (status.st_size, status.st_mtime_ns) == (file_range.size, file_range.modified)
    except FileNotFoundError:
        same = False
    if not same:
        raise TextError(
            f"{file_range.path} was changed or removed while it was being read",
            remedy="run the same command again once the input no longer changes; the results of "
            "other files are kept",
        )


def _damaged(file_range: FileRange, error: DamagedFileError | OSError) -> Document:
    damage = error if isinstance(error, DamagedFileError) else DamagedFileError(str(error))
    return Document.reject(
        file_range.language,
        RejectReason.DAMAGED_FILE,
        f"{file_range.path}: {damage}",
        size=damage.unread,
        columns=damage.columns,
    )
