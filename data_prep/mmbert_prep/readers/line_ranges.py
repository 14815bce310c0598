"""Division of uncompressed files at line ends or blank lines."""

from __future__ import annotations

import itertools
import os

from mmbert_prep.readers.documents import FileRange, InputFile
from mmbert_prep.readers.streams import BLOCK


def line_ranges(file: InputFile, unit_bytes: int, blank_line: bool = False) -> list[FileRange]:
    """Divide a file of lines into ranges of about `unit_bytes`.

    Records end with a line or, with `blank_line`, a blank line. Compressed files stay whole.
    """
    if file.compression != "none" or file.size <= unit_bytes * 3 // 2:
        return file.whole()
    count = -(-file.size // unit_bytes)
    bounds = [0]
    with open(file.path, "rb") as stream:
        for number in range(1, count):
            bound = _next_record(
                stream.fileno(), file.size * number // count, file.size, blank_line
            )
            if bound > bounds[-1]:
                bounds.append(bound)
    if bounds[-1] < file.size:
        bounds.append(file.size)
    return [file.range(start, stop, stop - start) for start, stop in itertools.pairwise(bounds)]


def _next_record(descriptor: int, position: int, size: int, blank_line: bool) -> int:
    """Return the first start of a record after `position`; `size` if there is none."""
    previous_blank = False
    pending = b""  # beginning of a line that continues in the next block
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
        # One non-whitespace character is enough to tell that a line is not blank.
        pending = (pending + block[offset:]).strip()[:1]
        position += len(block)
    return size
