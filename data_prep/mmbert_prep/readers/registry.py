"""Which reader reads which file, and how a file is divided into segments of work."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

from mmbert.errors import UserError
from mmbert_prep.readers.documents import Document, FileRange, Format, InputFile
from mmbert_prep.readers.hub_dataset import hub_ranges, read_hub_dataset
from mmbert_prep.readers.jsonl import read_jsonl
from mmbert_prep.readers.parquet import read_parquet, row_group_bytes
from mmbert_prep.readers.streams import BLOCK, DamagedFileError
from mmbert_prep.readers.text import read_text
from mmbert_prep.readers.tokenized import megatron_documents, read_mds, read_megatron
from mmbert_prep.settings import PrepSettings

_READERS: dict[Format, Callable[[FileRange, PrepSettings], Iterator[Document]]] = {
    "parquet": read_parquet,
    "jsonl": read_jsonl,
    "text": read_text,
    "megatron": read_megatron,
    "mds": read_mds,
    "hub": read_hub_dataset,
}


def read_range(file_range: FileRange, settings: PrepSettings) -> Iterator[Document]:
    """Documents of a segment. A file that cannot be read (further) ends with one Document whose
    problem is `damaged_file` and whose detail names the file and the reason."""
    if file_range.problem is not None:
        yield _damaged(file_range, file_range.problem)
        return
    reader = _READERS[file_range.format]
    _check_unchanged(file_range)
    try:
        yield from reader(file_range, settings)
    except (DamagedFileError, OSError) as error:
        _check_unchanged(file_range)  # a file replaced by another looks damaged, too
        # What was given before the damage is kept; the rest of the segment is lost and says so.
        yield _damaged(file_range, str(error))
    _check_unchanged(file_range)


def _check_unchanged(file_range: FileRange) -> None:
    """Raise UserError if the file is not the one that the work was planned for."""
    if file_range.format == "hub":
        return  # its revision is part of its name
    try:
        status = os.stat(file_range.path)
        same = (status.st_size, status.st_mtime_ns) == (file_range.size, file_range.modified)
    except FileNotFoundError:
        same = False
    if not same:
        raise UserError(
            f"{file_range.path} was changed or removed while it was being read",
            remedy="run the same command again when the input no longer changes: what was made of "
            "other files is kept",
        )


def _damaged(file_range: FileRange, why: str) -> Document:
    return Document(None, file_range.language, "damaged_file", f"{file_range.path}: {why}")


def plan_ranges(file: InputFile, unit_bytes: int, settings: PrepSettings) -> list[FileRange]:
    """Divide a file into segments of about `unit_bytes`, at record boundaries, in file order."""
    if file.format == "hub":
        return hub_ranges(file)
    if file.format == "parquet":
        return _parquet_ranges(file, unit_bytes)
    if file.format == "megatron":
        return _megatron_ranges(file, unit_bytes)
    whole_documents = file.format == "text" and settings.text_unit == "file"
    whole_file = file.format == "mds" or file.compression != "none" or whole_documents
    if whole_file or file.size <= unit_bytes * 3 // 2:
        return [_file_range(file, 0, file.size, file.size)]
    blank_line = file.format == "text" and settings.text_unit == "block"
    count = -(-file.size // unit_bytes)
    bounds = [0]
    with open(file.path, "rb") as stream:
        for number in range(1, count):
            bound = _boundary(stream.fileno(), file.size * number // count, file.size, blank_line)
            if bound > bounds[-1]:
                bounds.append(bound)
    if bounds[-1] < file.size:
        bounds.append(file.size)
    return [
        _file_range(file, start, stop, stop - start) for start, stop in itertools.pairwise(bounds)
    ]


def _file_range(
    file: InputFile, start: int, stop: int, input_bytes: int, problem: str | None = None
) -> FileRange:
    return FileRange(
        path=file.path,
        format=file.format,
        compression=file.compression,
        language=file.language,
        size=file.size,
        modified=file.modified,
        start=start,
        stop=stop,
        input_bytes=input_bytes,
        problem=problem,
    )


def _parquet_ranges(file: InputFile, unit_bytes: int) -> list[FileRange]:
    try:
        sizes = row_group_bytes(file.path)
    except DamagedFileError as error:
        return [_file_range(file, 0, 0, 1, problem=str(error))]
    file_ranges: list[FileRange] = []
    start = input_bytes = 0
    for group, size in enumerate(sizes):
        input_bytes += size
        if input_bytes >= unit_bytes or group == len(sizes) - 1:
            file_ranges.append(_file_range(file, start, group + 1, input_bytes))
            start, input_bytes = group + 1, 0
    return file_ranges


def _megatron_ranges(file: InputFile, unit_bytes: int) -> list[FileRange]:
    try:
        documents = megatron_documents(file.path)
        input_bytes = max(1, os.path.getsize(f"{file.path[:-4]}.bin"))
    except (DamagedFileError, OSError) as error:
        return [_file_range(file, 0, 0, 1, problem=str(error))]
    count = max(1, min(documents, -(-input_bytes // unit_bytes)))
    bounds = [documents * number // count for number in range(count + 1)]
    return [
        _file_range(file, start, stop, max(1, input_bytes // count))
        for start, stop in itertools.pairwise(bounds)
    ]


def _boundary(descriptor: int, position: int, size: int, blank_line: bool) -> int:
    """The first record start at or after `position`: after a newline, or after a blank line."""
    previous_blank = False
    pending = b""  # the part of a line that the last block ended with
    line_start = -1  # unknown until the first newline
    while position < size:
        block = os.pread(descriptor, BLOCK, position)
        if not block:
            break
        offset = 0
        while (end := block.find(b"\n", offset)) >= 0:
            next_line = position + end + 1
            if not blank_line:
                return next_line
            if line_start >= 0:
                previous_blank = not (pending + block[offset:end]).strip()
                if previous_blank:
                    return next_line
            line_start, pending, offset = next_line, b"", end + 1
        # Of a long line only whether it has anything but blanks matters.
        rest = (pending + block[offset:]).strip()[:1]
        pending = rest
        position += len(block)
    return size
