"""MosaicML Streaming shards (`.mds`) of token ids or texts."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
import orjson

from mmbert_prep.readers.documents import Compression, Document, FileRange
from mmbert_prep.readers.file_format import FileFormat
from mmbert_prep.readers.language_columns import LanguageColumns
from mmbert_prep.readers.rejection import column_names
from mmbert_prep.readers.streams import COMPRESSIONS, DamagedFileError, read_blocks
from mmbert_prep.settings import InputSettings

_TOKEN_COLUMNS = ("input_ids", "tokens")
# Files of MosaicML Streaming, and of repositories published with it, that describe shards.
_DESCRIPTIONS = {
    "index.json", "num_tokens.json", "stats.json", "token_decile.json", "sampling_summary.json",
    "dataset_stats.csv",
}  # fmt: skip
_FORMS = ("raw_data", "zip_data")
_MAX_INDEX = 64_000_000
_MAX_SAMPLES = 1 << 28
# Byte codes of array dtypes, from streaming/base/format/mds/encodings.py.
_ARRAY_DTYPES = {
    8: "u1", 9: "i1", 16: "<u2", 17: "<i2", 32: "<u4", 33: "<i4", 64: "<u8", 65: "<i8",
}  # fmt: skip
_NAMED_DTYPES = {
    "uint8": "u1", "int8": "i1", "uint16": "<u2", "int16": "<i2",
    "uint32": "<u4", "int32": "<i4", "uint64": "<u8", "int64": "<i8",
}  # fmt: skip


def _read(file_range: FileRange, settings: InputSettings) -> Iterator[Document]:
    """Yield the `input_ids` (or `tokens`) column of each sample, else its text column.

    Shard layout: u32 sample count; u32[count + 1] offsets from the start of the file; JSON
    configuration; samples. Sample layout: u32 size of each variable-size column; bytes of all
    columns. Shards are read sequentially, so memory does not grow with their size.
    """
    reader = _ByteReader(read_blocks(file_range.path, file_range.compression, 0, file_range.size))
    offsets, config = _read_head(reader)
    columns = _columns(config, settings)
    for offset, size in zip(offsets[:-1], np.diff(offsets), strict=True):
        left = int(offsets[-1] - offset)
        try:
            sample = reader.read_exactly(int(size))
        except DamagedFileError as error:
            if file_range.compression == "none":
                error.unread = left
            raise
        try:
            yield columns.document(sample, file_range.language)
        except (ValueError, struct.error, KeyError) as error:
            unread = file_range.input_bytes * left // int(offsets[-1])
            raise DamagedFileError(f"invalid sample: {error}", unread=unread) from error


def _read_head(reader: _ByteReader) -> tuple[np.ndarray, bytes]:
    """Return the offsets of the samples, int64[count + 1], and the JSON configuration."""
    (count,) = struct.unpack("<I", reader.read_exactly(4))
    if count > _MAX_SAMPLES:
        raise DamagedFileError(f"its header claims {count} samples")
    offsets = np.frombuffer(reader.read_exactly(4 * (count + 1)), dtype="<u4").astype(np.int64)
    config_size = int(offsets[0]) - 8 - 4 * count
    if config_size < 2 or np.any(np.diff(offsets) < 0):
        raise DamagedFileError("its offsets are not in order; it is damaged or not an MDS shard")
    return offsets, reader.read_exactly(config_size)


def _has_languages(path: str, compression: Compression, settings: InputSettings) -> bool:
    """Return whether a shard has the first language column; True if that cannot be read."""
    try:
        reader = _ByteReader(read_blocks(path, compression, 0, os.path.getsize(path)))
        return _columns(_read_head(reader)[1], settings).has_languages
    except (DamagedFileError, OSError):
        return True  # reading reports the damage


class _Columns:
    def __init__(self, config: dict[str, Any], settings: InputSettings) -> None:
        self._names = config["column_names"]
        self._encodings = config["column_encodings"]
        self._sizes = config["column_sizes"]
        self._languages = settings.language_columns
        self._by_column = LanguageColumns(settings)
        self._tokens = next((name for name in _TOKEN_COLUMNS if name in self._names), None)
        self._text = settings.text_column if settings.text_column in self._names else None
        if self._tokens is None and self._text is None:
            raise DamagedFileError(
                f"it has none of the columns {', '.join(_TOKEN_COLUMNS)}, {settings.text_column} "
                f"(columns: {', '.join(self._names)})",
                columns=column_names(self._names),
            )

    @property
    def has_languages(self) -> bool:
        """Whether the first of the language columns is there."""
        return bool(self._languages) and self._languages[0] in self._names

    def document(self, sample: bytes, language: str | None) -> Document:
        """Decode a sample. Raises ValueError if its size does not match its columns."""
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
            raise ValueError(f"its columns have {start} bytes, the sample {len(sample)}")
        written = None
        if language is None:
            texts = [self._string(values, name) for name in self._languages]
            language, written = self._by_column.of(texts)
        if self._tokens is not None:
            encoding = self._encodings[self._names.index(self._tokens)]
            array = _array(values[self._tokens], encoding)
            return Document.from_tokens(array, language)._replace(written_language=written)
        assert self._text is not None
        return Document(values[self._text], language, written_language=written)

    def _string(self, values: dict[str, bytes], name: str) -> str | None:
        if name not in values or self._encodings[self._names.index(name)] != "str":
            return None
        return values[name].decode(errors="replace")


def _columns(data: bytes, settings: InputSettings) -> _Columns:
    try:
        return _Columns(json.loads(data), settings)
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedFileError(f"invalid configuration: {error}") from error


def _array(data: bytes, encoding: str) -> np.ndarray:
    """Decode a column of integers: `ndarray[:dtype[:shape]]`, or raw `bytes` of int64 or int32."""
    kind, *arguments = encoding.split(":")
    if kind == "bytes":
        # llm-foundry writes int64, newer versions int32; the wrong dtype gives ids out of range.
        if len(data) % 8 == 0:
            wide = np.frombuffer(data, dtype="<i8")
            if wide.size == 0 or (int(wide.min()) >= 0 and int(wide.max()) < 2**31):
                return wide
        return np.frombuffer(data, dtype="<i4")
    if kind != "ndarray":
        raise ValueError(f"unsupported encoding {encoding} of ids")
    start = 0
    if arguments:
        dtype = np.dtype(_NAMED_DTYPES[arguments[0]])
    else:
        dtype = np.dtype(_ARRAY_DTYPES[data[0]])
        start = 1
    if len(arguments) < 2:  # a byte with number of axes and width of an axis, then the shape
        axes, width = data[start] >> 2, 1 << (data[start] % 4)
        start += 1 + axes * width
    return np.frombuffer(data[start:], dtype=dtype)


class _ByteReader:
    """Reads exact numbers of bytes from a stream of blocks."""

    def __init__(self, stream: Iterator[bytes]) -> None:
        self._stream = stream
        self._parts: list[bytes] = []
        self._size = 0

    def read_exactly(self, size: int) -> bytes:
        while self._size < size:
            block = next(self._stream, None)
            if block is None:
                raise DamagedFileError(f"it is truncated ({size - self._size} more bytes expected)")
            self._parts.append(block)
            self._size += len(block)
        data = b"".join(self._parts)
        self._parts, self._size = [data[size:]], len(data) - size
        return data[:size]


def _companions(paths: Sequence[str]) -> Mapping[str, str | None]:
    # Index and statistics of a shard folder, and those merged in the folders above it; compressed
    # shards beside their decompressed copies, which MosaicML Streaming needs for training.
    known = set(paths)
    folders = {os.path.dirname(path) for path in paths if ".mds" in os.path.basename(path)}
    above = {str(parent) for folder in folders for parent in PurePath(folder).parents}
    found: dict[str, str | None] = {}
    for path in paths:
        unpacked, suffix = os.path.splitext(path)
        folder, name = os.path.split(path)
        if (folder or ".") in above and name in _DESCRIPTIONS:
            found[path] = "above MDS shards"
        elif name == "index.json" and _lacks_shards(path, known):
            found[path] = "index of MDS shards of which some are missing"
        elif folder in folders and (suffix == ".json" or name in _DESCRIPTIONS):
            found[path] = "beside MDS shards"
        elif suffix.lower() in COMPRESSIONS and unpacked.endswith(".mds") and unpacked in known:
            found[path] = "packed copy of an MDS shard beside it"
    return found


def _lacks_shards(index: str, known: set[str]) -> bool:
    """Return whether an index names a shard that is neither packed nor unpacked in its folder."""
    try:
        with open(index, "rb") as file:
            shards = orjson.loads(file.read(_MAX_INDEX))["shards"]
        names = [[each[key]["basename"] for key in _FORMS if each.get(key)] for each in shards]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False  # no index, or one without shards of this format
    folder = os.path.dirname(index)
    return any(known.isdisjoint(os.path.join(folder, name) for name in forms) for forms in names)


MDS = FileFormat(
    name="mds",
    read=_read,
    suffixes=(".mds",),
    has_languages=_has_languages,
    companions=_companions,
)
