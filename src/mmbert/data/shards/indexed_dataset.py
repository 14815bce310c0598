"""Byte-compatible reader and streaming writer of Megatron's indexed dataset (.bin/.idx).

Layout (little-endian): `.bin` is the raw token array. `.idx` is the magic `MMIDIDX\\0\\0`, u64
version 1, u8 dtype code, u64 number of sequences S, u64 number of documents + 1 (D), then
i32[S] lengths in tokens, i64[S] byte offsets, i64[D] document boundaries as sequence numbers.
Source: Megatron-LM, megatron/core/datasets/indexed_dataset.py.
"""

from __future__ import annotations

import functools
import os
import struct
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import xxhash

from mmbert.data.shards.manifest import FileEntry, Shard, ShardFiles
from mmbert.data.shards.mapped_file import MappedFile
from mmbert.errors import ShardsError
from mmbert.files import explained_write_errors, sync_folder

_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")
_DTYPES: dict[int, np.dtype] = {
    code: np.dtype(name)
    for code, name in {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}.items()
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_MAX_LENGTH = 2**31 - 1


def dtype_for_vocabulary(vocabulary_size: int) -> np.dtype:
    """Return the narrowest dtype for all ids: uint16 up to 65,536 ids, else int32."""
    return np.dtype("<u2") if vocabulary_size <= 65_536 else np.dtype("<i4")


class IndexedDataset:
    """Random access to the documents of one pair through two flat memory maps.

    Offsets are verified when a document is read, so that opening takes the same time for any size.

    Args:
        prefix: path without suffix.

    Attributes:
        dtype: dtype of the tokens.
        lengths: int32 [S], tokens of each sequence.
        offsets: int64 [S], in bytes.
        next_offsets: int64 [S], offset of the next sequence (0 for the last).
        boundaries: int64 [documents + 1], first sequence of each document.

    Raises:
        ShardsError: names a file that is missing, truncated or inconsistent.
    """

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        self._index_path = prefix.with_name(prefix.name + ".idx")
        self._data_path = prefix.with_name(prefix.name + ".bin")
        self._index_file = self._map(self._index_path)
        index = self._index_file.data
        if len(index) < _HEADER.size:
            raise self._broken("it ends inside the header")
        magic, version, code, sequences, boundaries = _HEADER.unpack(
            index[: _HEADER.size].tobytes()
        )
        if magic != _MAGIC:
            raise self._broken("it does not begin with MMIDIDX")
        if version != 1:
            raise self._broken(f"its version is {version}; only 1 is known")
        if code not in _DTYPES:
            raise self._broken(f"its dtype code {code} is none of {sorted(_DTYPES)}")
        self.dtype = _DTYPES[code]
        expected = _HEADER.size + 12 * sequences + 8 * boundaries
        # A multimodal pair has one more byte per sequence, which text does not need.
        if len(index) not in (expected, expected + sequences):
            raise self._broken(
                f"{sequences} sequences and {boundaries} boundaries need {expected} bytes, "
                f"it has {len(index)}"
            )
        start = _HEADER.size
        self.lengths: np.ndarray = index[start : start + 4 * sequences].view("<i4")
        start += 4 * sequences
        self.offsets: np.ndarray = index[start : start + 8 * sequences].view("<i8")
        # Shifted by one: offset of the next sequence. The boundaries follow the last offset and
        # start with 0, so the last entry is 0.
        self.next_offsets: np.ndarray = index[start + 8 : start + 8 + 8 * sequences].view("<i8")
        start += 8 * sequences
        self.boundaries: np.ndarray = index[start : start + 8 * boundaries].view("<i8")
        if boundaries < 1 or self.boundaries[0] != 0 or self.boundaries[-1] != sequences:
            raise self._broken("its document boundaries do not span its sequences")
        self._data_file = self._map(self._data_path)
        self._data = self._data_file.data
        end = 0
        if sequences:
            end = int(self.offsets[-1]) + int(self.lengths[-1]) * self.dtype.itemsize
        if end != len(self._data):
            raise ShardsError(
                f"{self._data_path} has {len(self._data)} bytes, its index says {end}",
                remedy="restore both files or write them again: the pair is truncated or mixed up",
            )

    def __len__(self) -> int:
        """Number of documents."""
        return len(self.boundaries) - 1

    @property
    def sequence_count(self) -> int:
        """Number of sequences; the number of documents in pairs written by this module."""
        return len(self.lengths)

    @functools.cached_property
    def tokens(self) -> np.ndarray:
        """Tokens of the pair as a flat read-only view."""
        if len(self._data) % self.dtype.itemsize:
            raise self._broken("its data is not a whole number of tokens")
        return self._data.view(self.dtype)

    def check_index_not_truncated(self) -> None:
        """Raise ShardsError if the `.idx` was truncated since opening. Call before reading it."""
        self._index_file.check_not_truncated()

    def check_tokens_not_truncated(self) -> None:
        """Raise ShardsError if the `.bin` was truncated since opening. Call before reading it."""
        self._data_file.check_not_truncated()

    @property
    def byte_count(self) -> int:
        """Size of the `.bin` in bytes."""
        return len(self._data)

    @property
    def token_count(self) -> int:
        """Number of tokens in the `.bin`."""
        return len(self._data) // self.dtype.itemsize

    def sequence(self, number: int, start: int = 0, end: int | None = None) -> np.ndarray:
        """Return tokens `start` to `end` of a sequence, a read-only view of dtype `self.dtype`.

        Raises IndexError outside the sequences or the sequence, ShardsError on a damaged index.
        """
        if not 0 <= number < len(self.lengths):
            raise IndexError(f"sequence {number} of {self.prefix}: it has {len(self.lengths)}")
        self.check_index_not_truncated()
        self.check_tokens_not_truncated()
        length = int(self.lengths[number])
        offset = int(self.offsets[number])
        size = self.dtype.itemsize
        if length < 0 or offset < 0 or offset + length * size > len(self._data):
            raise self._broken(f"sequence {number} is outside the data")
        # Sequences are contiguous: this catches a wrong length or offset.
        is_last = number == len(self.lengths) - 1
        following = len(self._data) if is_last else int(self.next_offsets[number])
        if offset + length * size != following:
            raise self._broken(f"the end of sequence {number} is not the start of the next")
        if end is None:
            end = length
        if not 0 <= start <= end:
            raise IndexError(f"tokens {start} … {end} of sequence {number} of {self.prefix}")
        if end > length:
            raise IndexError(f"sequence {number} of {self.prefix} has {length} tokens, not {end}")
        return self._data[offset + start * size : offset + end * size].view(self.dtype)

    def document(self, number: int) -> np.ndarray:
        """Return all tokens of a document (its sequences are contiguous)."""
        if not 0 <= number < len(self):
            raise IndexError(f"document {number} of {self.prefix}: it has {len(self)}")
        self.check_index_not_truncated()
        first, last = int(self.boundaries[number]), int(self.boundaries[number + 1])
        if not 0 <= first <= last <= len(self.lengths):
            raise self._broken(f"document {number} is outside the sequences")
        if last == first + 1:
            return self.sequence(first)
        parts = [self.sequence(sequence) for sequence in range(first, last)]
        return np.concatenate(parts) if parts else np.empty(0, dtype=self.dtype)

    def read_ahead(self, start: int, end: int) -> None:
        """Ask the OS to read tokens `start` to `end` of the `.bin` in the background."""
        size = self.dtype.itemsize
        self._data_file.read_ahead(start * size, end * size)

    def _map(self, path: Path) -> MappedFile:
        try:
            return MappedFile(path)
        except FileNotFoundError:
            raise ShardsError(
                f"{path} is missing",
                remedy="restore the file or write the pair (.bin and .idx) again",
            ) from None

    def _broken(self, why: str) -> ShardsError:
        return ShardsError(
            f"{self._index_path} is not a valid Megatron index: {why}",
            remedy="restore the file from a copy, or write the shard again",
        )


class IndexedDatasetWriter:
    """Streams documents into a pair that becomes visible only when complete.

    Tokens are written to `<prefix>.bin.partial`; memory use is 4 bytes per document. `finish()`
    syncs and renames both files and returns the manifest's Shard entry. Leaving the `with` block
    without `finish()` removes the partial file. Writes one sequence per document.
    """

    def __init__(self, prefix: Path, dtype: npt.DTypeLike) -> None:
        self.dtype = np.dtype(dtype).newbyteorder("<")
        if self.dtype not in _CODES:
            raise ValueError(f"Megatron's format has no code for {self.dtype}")
        self.documents = 0
        self.tokens = 0
        self._prefix = prefix
        self._final = prefix.with_name(prefix.name + ".bin")
        self._partial = prefix.with_name(prefix.name + ".bin.partial")
        self._lengths: list[np.ndarray] = []
        self._digest = xxhash.xxh3_128()
        self._finished = False
        self._limits = (
            np.iinfo(self.dtype).min,
            np.iinfo(self.dtype).max,
        )
        with explained_write_errors(self._final):
            # 1 MiB: a system call for each short document would dominate the cost
            self._file = open(self._partial, "wb", buffering=1 << 20)  # noqa: SIM115

    def add(self, tokens: npt.ArrayLike) -> None:
        """Append one document."""
        array = np.asarray(tokens)
        self.add_many(array, np.array([array.size]))

    def add_many(self, tokens: np.ndarray, lengths: npt.ArrayLike) -> None:
        """Append documents concatenated in the flat integer array `tokens`.

        Raises ValueError if the lengths do not sum to its size or an id does not fit the dtype.
        """
        tokens = np.asarray(tokens).reshape(-1)
        counts = np.asarray(lengths, dtype=np.int64).reshape(-1)
        if tokens.size and tokens.dtype.kind not in "iu":
            raise ValueError(f"token ids have dtype {tokens.dtype}, expected integers")
        if int(counts.sum()) != tokens.size or (counts.size and int(counts.min()) < 0):
            raise ValueError(
                f"lengths sum to {int(counts.sum())}, but there are {tokens.size} tokens"
            )
        if counts.size and int(counts.max()) > _MAX_LENGTH:
            raise ValueError("Megatron's format has no documents of 2^31 tokens or more")
        if tokens.dtype != self.dtype:
            if tokens.size and not (
                self._limits[0] <= int(tokens.min()) and int(tokens.max()) <= self._limits[1]
            ):
                raise ValueError(f"a token id does not fit {self.dtype}")
            tokens = tokens.astype(self.dtype)
        data = np.ascontiguousarray(tokens).data.cast("B") if tokens.size else b""
        with explained_write_errors(self._final):
            self._file.write(data)
        self._digest.update(data)
        self._lengths.append(counts.astype("<i4"))
        self.documents += counts.size
        self.tokens += tokens.size

    def finish(self) -> Shard:
        """Complete the pair and make it visible, `.bin` first, then `.idx`."""
        lengths = np.concatenate(self._lengths) if self._lengths else np.empty(0, dtype="<i4")
        index = index_bytes(lengths, self.dtype)
        index_final = self._prefix.with_name(self._prefix.name + ".idx")
        index_partial = self._prefix.with_name(self._prefix.name + ".idx.partial")
        with explained_write_errors(self._final):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            with open(index_partial, "wb") as file:
                file.write(index)
                file.flush()
                os.fsync(file.fileno())
            os.replace(self._partial, self._final)
            os.replace(index_partial, index_final)
            sync_folder(self._final.parent)
        self._finished = True
        return Shard(
            name=self._prefix.name,
            documents=self.documents,
            tokens=self.tokens,
            files=ShardFiles(
                bin=FileEntry(
                    bytes=self.tokens * self.dtype.itemsize, xxh3_128=self._digest.hexdigest()
                ),
                idx=FileEntry(bytes=len(index), xxh3_128=xxhash.xxh3_128_hexdigest(index)),
            ),
        )

    def abort(self) -> None:
        """Remove the partial files; does nothing after `finish()`."""
        if not self._finished:
            self._file.close()
            self._partial.unlink(missing_ok=True)
            self._prefix.with_name(self._prefix.name + ".idx.partial").unlink(missing_ok=True)

    def __enter__(self) -> IndexedDatasetWriter:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.abort()


def index_bytes(lengths: npt.ArrayLike, dtype: npt.DTypeLike) -> bytes:
    """Return the content of the `.idx` for documents of `lengths` tokens, one sequence each."""
    counts = np.asarray(lengths, dtype="<i4")
    token_bytes = np.dtype(dtype).newbyteorder("<")
    offsets = np.zeros(len(counts), dtype="<i8")
    np.cumsum(counts[:-1], dtype="<i8", out=offsets[1:])
    offsets *= token_bytes.itemsize
    header = _HEADER.pack(_MAGIC, 1, _CODES[token_bytes], len(counts), len(counts) + 1)
    boundaries = np.arange(len(counts) + 1, dtype="<i8")
    return b"".join((header, counts.tobytes(), offsets.tobytes(), boundaries.tobytes()))
