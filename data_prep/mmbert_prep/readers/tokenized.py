"""Input that is tokenised already: Megatron pairs (.bin/.idx) and MosaicML MDS shards (.mds)."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mmbert.data.shards.indexed_dataset import IndexedDataset
from mmbert.errors import UserError
from mmbert_prep.readers.documents import Document, FileRange
from mmbert_prep.readers.language_columns import language_of
from mmbert_prep.readers.streams import DamagedFileError, read_blocks
from mmbert_prep.settings import PrepSettings

_TOKEN_COLUMNS = ("input_ids", "tokens")
_MAX_SAMPLES = 1 << 28
# streaming/base/format/mds/encodings.py: the byte that names an array's dtype where none is fixed.
_ARRAY_DTYPES = {
    8: "u1", 9: "i1", 16: "<u2", 17: "<i2", 32: "<u4", 33: "<i4", 64: "<u8", 65: "<i8",
}  # fmt: skip
_NAMED_DTYPES = {
    "uint8": "u1", "int8": "i1", "uint16": "<u2", "int16": "<i2",
    "uint32": "<u4", "int32": "<i4", "uint64": "<u8", "int64": "<i8",
}  # fmt: skip


def megatron_documents(path: str) -> int:
    """Number of documents of the pair whose `.idx` is at `path`; DamagedFileError if unsound."""
    return len(_open_pair(path))


def _open_pair(path: str) -> IndexedDataset:
    try:
        return IndexedDataset(Path(path).with_suffix(""))
    except UserError as error:
        raise DamagedFileError(error.message) from error


def read_megatron(file_range: FileRange, settings: PrepSettings) -> Iterator[Document]:
    """Documents start … stop of a Megatron pair."""
    pair = _open_pair(file_range.path)
    for number in range(file_range.start, file_range.stop):
        try:
            tokens = pair.document(number)
        except UserError as error:
            raise DamagedFileError(error.message) from error
        yield _tokens(tokens, file_range.language)


def _tokens(tokens: np.ndarray, language: str | None) -> Document:
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
        return Document(None, language, "invalid_tokens")
    if tokens.size and not 0 <= int(tokens.min()) <= int(tokens.max()) < 2**31:
        return Document(None, language, "invalid_tokens")
    return Document(None, language, tokens=tokens.astype(np.int32))


def read_mds(file_range: FileRange, settings: PrepSettings) -> Iterator[Document]:
    """Documents of an MDS shard: its `input_ids` (or `tokens`) column, else its text column.

    Layout: u32 number of samples, u32 offsets (one more than samples) from the file's start, the
    configuration as JSON, then the samples: u32 size of each column without a fixed one, then the
    columns' bytes. Read from front to back, so memory does not grow with the shard.
    """
    reader = _ByteReader(read_blocks(file_range.path, file_range.compression, 0, file_range.size))
    (count,) = struct.unpack("<I", reader.read_exactly(4))
    if count > _MAX_SAMPLES:
        raise DamagedFileError(f"it claims to have {count} samples")
    offsets = np.frombuffer(reader.read_exactly(4 * (count + 1)), dtype="<u4").astype(np.int64)
    config_size = int(offsets[0]) - 8 - 4 * count
    if config_size < 2 or np.any(np.diff(offsets) < 0):
        raise DamagedFileError("its offsets are not in order: no MDS shard, or a damaged one")
    columns = _columns(reader.read_exactly(config_size), settings)
    for size in np.diff(offsets):
        sample = reader.read_exactly(int(size))
        try:
            yield columns.document(sample, file_range.language)
        except (ValueError, struct.error, KeyError) as error:
            raise DamagedFileError(f"a sample cannot be decoded: {error}") from error


class _Columns:
    def __init__(self, config: dict[str, Any], settings: PrepSettings) -> None:
        self._names = config["column_names"]
        self._encodings = config["column_encodings"]
        self._sizes = config["column_sizes"]
        self._languages = settings.language_columns
        self._tokens = next((name for name in _TOKEN_COLUMNS if name in self._names), None)
        self._text = settings.text_column if settings.text_column in self._names else None
        if self._tokens is None and self._text is None:
            raise DamagedFileError(
                f"it has none of the columns {', '.join(_TOKEN_COLUMNS)}, {settings.text_column} "
                f"(columns: {', '.join(self._names)})"
            )

    def document(self, sample: bytes, language: str | None) -> Document:
        """The document of a sample. ValueError when the sample does not fit its columns."""
        values: dict[str, bytes] = {}
        free = [index for index, size in enumerate(self._sizes) if not size]
        sizes = list(self._sizes)
        for place, index in enumerate(free):
            (sizes[index],) = struct.unpack_from("<I", sample, 4 * place)
        start = 4 * len(free)
        for name, size in zip(self._names, sizes, strict=True):
            values[name] = sample[start : start + size]
            start += size
        if start != len(sample):
            raise ValueError(f"its columns take {start} bytes of {len(sample)}")
        if language is None:
            language = language_of([self._string(values, name) for name in self._languages])
        if self._tokens is not None:
            encoding = self._encodings[self._names.index(self._tokens)]
            return _tokens(_array(values[self._tokens], encoding), language)
        assert self._text is not None
        return Document(values[self._text], language)

    def _string(self, values: dict[str, bytes], name: str) -> str | None:
        if name not in values or self._encodings[self._names.index(name)] != "str":
            return None
        return values[name].decode(errors="replace")


def _columns(data: bytes, settings: PrepSettings) -> _Columns:
    try:
        return _Columns(json.loads(data), settings)
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedFileError(f"its configuration cannot be read: {error}") from error


def _array(data: bytes, encoding: str) -> np.ndarray:
    """Decode a column of numbers: `ndarray[:dtype[:shape]]`, or raw `bytes` of int64 or int32."""
    kind, *arguments = encoding.split(":")
    if kind == "bytes":
        # llm-foundry writes int64, newer versions int32: only one of them gives small numbers.
        if len(data) % 8 == 0:
            wide = np.frombuffer(data, dtype="<i8")
            if wide.size == 0 or (int(wide.min()) >= 0 and int(wide.max()) < 2**31):
                return wide
        return np.frombuffer(data, dtype="<i4")
    if kind != "ndarray":
        raise ValueError(f"ids encoded as {encoding}")
    start = 0
    if arguments:
        dtype = np.dtype(_NAMED_DTYPES[arguments[0]])
    else:
        dtype = np.dtype(_ARRAY_DTYPES[data[0]])
        start = 1
    if len(arguments) < 2:  # the number of axes and the width of each, then the shape itself
        axes, width = data[start] >> 2, 1 << (data[start] % 4)
        start += 1 + axes * width
    return np.frombuffer(data[start:], dtype=dtype)


class _ByteReader:
    """Exact numbers of bytes from a stream of blocks."""

    def __init__(self, stream: Iterator[bytes]) -> None:
        self._stream = stream
        self._parts: list[bytes] = []
        self._size = 0

    def read_exactly(self, size: int) -> bytes:
        while self._size < size:
            block = next(self._stream, None)
            if block is None:
                raise DamagedFileError(f"it ends where {size - self._size} more bytes should be")
            self._parts.append(block)
            self._size += len(block)
        data = b"".join(self._parts)
        self._parts, self._size = [data[size:]], len(data) - size
        return data[:size]
