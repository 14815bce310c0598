"""Splitting of documents at a context, and the index of continuation parts.

A *piece* is the unit drawn by the mixture: a document, or one part of a document longer than the
run's longest context. In a language's train split, piece `d` below the number of documents is the
first part of document `d`. Higher numbers are continuation parts (part 1, 2, …) in the order of
the *continuation index*, which is sorted by document and part and lists only long documents.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmbert.data.shards.mapped_file import MappedFile
from mmbert.errors import ShardsError
from mmbert.files import atomic_write, checksum_file

SPECIAL_TOKENS_PER_SEGMENT = 2  # begin and end, added when a row is built
_MAX_HEADER_BYTES = 1024  # bytes of an .npy file; numpy writes 128 here
CONTINUATION_DTYPE = np.dtype([("document", "<i8"), ("part", "<i4")])


def payload_capacity(context: int) -> int:
    """Return the document tokens in a segment of `context` tokens. Raises ValueError below 1."""
    capacity = context - SPECIAL_TOKENS_PER_SEGMENT
    if capacity < 1:
        raise ValueError(f"a context of {context} tokens leaves no room for text")
    return capacity


def count_parts(lengths: npt.ArrayLike, context: int) -> np.ndarray:
    """Return the number of parts (at least 1) of documents of `lengths` tokens, int64."""
    capacity = payload_capacity(context)
    return np.maximum(1, -(-np.asarray(lengths, dtype=np.int64) // capacity))


def part_bounds(
    length: npt.ArrayLike, context: int, part: npt.ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Return start and end (int64, end exclusive) of part `part` of documents of `length` tokens.

    Parts are full (`context - 2` tokens), except that a last part of less than half of that is
    balanced with the part before it, to avoid tiny pieces. Vectorized: `length` and `part`
    broadcast. `part` must be in 0 to count_parts(length) - 1.
    """
    capacity = payload_capacity(context)
    length = np.asarray(length, dtype=np.int64)
    part = np.asarray(part, dtype=np.int64)
    parts = count_parts(length, context)
    last = length - (parts - 1) * capacity
    shares = (parts >= 2) & (2 * last < capacity)
    last_start = np.where(
        shares, (parts - 2) * capacity + (capacity + last + 1) // 2, (parts - 1) * capacity
    )
    start = np.where(part == parts - 1, last_start, part * capacity)
    end = np.where(
        part == parts - 1, length, np.where(part == parts - 2, last_start, (part + 1) * capacity)
    )
    return start, end


def continuation_index(lengths: npt.ArrayLike, context: int, first_document: int = 0) -> np.ndarray:
    """List the continuation parts of documents of `lengths`, numbered from `first_document`.

    Returns a structured array (CONTINUATION_DTYPE) with one entry per part beyond the first.
    Indexes of consecutive shards can be concatenated.
    """
    extra = count_parts(lengths, context) - 1
    long_documents = np.flatnonzero(extra)
    extra = extra[long_documents]
    index = np.empty(int(extra.sum()), dtype=CONTINUATION_DTYPE)
    index["document"] = np.repeat(long_documents + first_document, extra)
    ends = np.cumsum(extra)
    index["part"] = np.arange(len(index)) - np.repeat(ends - extra, extra) + 1
    return index


def pieces_file_name(context: int) -> str:
    """Return the file name of the continuation index of a context in a language's folder."""
    return f"pieces-{context}.npy"


def write_continuation_index(path: Path, index: np.ndarray) -> str:
    """Write a continuation index atomically as .npy and return its XXH3-128."""
    return write_continuation_indexes(path, len(index), [index])


def write_continuation_indexes(path: Path, entries: int, indexes: Iterable[np.ndarray]) -> str:
    """Write the continuation indexes of consecutive shards, of `entries` in all, as one.

    Takes them one by one: that of a language of a billion documents may be several gigabytes.
    """
    description = np.lib.format.dtype_to_descr(CONTINUATION_DTYPE)
    header = {"descr": description, "fortran_order": False, "shape": (entries,)}
    with atomic_write(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for index in indexes:
            if index.dtype != CONTINUATION_DTYPE:
                raise ValueError(f"index has dtype {index.dtype}, expected {CONTINUATION_DTYPE}")
            file.write(index.tobytes())
            entries -= len(index)
        if entries:
            raise ValueError(f"{entries} entries are missing (below 0: too many)")
    return checksum_file(path)


@dataclass(frozen=True)
class ContinuationIndex:
    """Memory-mapped continuation index: `entries` of CONTINUATION_DTYPE and their file."""

    entries: np.ndarray
    file: MappedFile


def read_continuation_index(path: Path, entries: int, documents: int) -> ContinuationIndex:
    """Memory-map a continuation index and verify its shape, dtype and outer bounds.

    Raises ShardsError naming the file if it is missing, damaged or does not match the manifest
    (`entries`, `documents`).
    """
    remedy = (
        "restore the file from a copy, or remove summary.json from the source's folder and run the "
        "same preprocessing command again, which remakes the source"
    )
    try:
        file = MappedFile(path)
        header = io.BytesIO(file.data[:_MAX_HEADER_BYTES].tobytes())
        version = np.lib.format.read_magic(header)
        shape, _, dtype = np.lib.format.read_array_header_1_0(header)
    except FileNotFoundError:
        raise ShardsError(f"{path} is missing", remedy=remedy) from None
    except Exception as error:  # numpy's header parser raises errors of any kind
        raise ShardsError(f"{path} is not a continuation index: {error}", remedy=remedy) from error
    if version != (1, 0) or dtype != CONTINUATION_DTYPE or len(shape) != 1:
        raise ShardsError(f"{path} is not a continuation index", remedy=remedy)
    data = file.data[header.tell() :]
    if len(data) != shape[0] * dtype.itemsize:
        raise ShardsError(
            f"{path} has {len(data)} bytes of entries, its header says {shape[0] * dtype.itemsize}",
            remedy=remedy,
        )
    index = data.view(CONTINUATION_DTYPE)
    if len(index) != entries:
        raise ShardsError(
            f"{path} lists {len(index)} pieces, the manifest says {entries}", remedy=remedy
        )
    if entries and not 0 <= int(index[0]["document"]) <= int(index[-1]["document"]) < documents:
        raise ShardsError(f"{path} refers to documents outside 0 … {documents - 1}", remedy=remedy)
    return ContinuationIndex(index, file)
