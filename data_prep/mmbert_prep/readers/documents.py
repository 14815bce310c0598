"""Data types of the readers: input files, file ranges and documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from mmbert_prep.readers.rejection import Rejected, RejectReason

Compression = Literal["none", "gzip", "zstd", "bzip2", "xz"]


class Document(NamedTuple):
    """One record of the input: a text, token ids, or a reason for rejection."""

    data: bytes | None
    """The text as UTF-8, not validated yet."""
    language: str | None
    """Language key; None if neither path nor columns give one."""
    rejected: Rejected | None = None
    """Reason for rejection, if the reader cannot use the record."""
    tokens: np.ndarray | None = None
    """int32[n] ids of input that is already tokenized."""
    text: str | None = None
    """`data` decoded, if the reader had to decode it anyway."""
    size: int | None = None
    """Bytes of the record as read, after decompression: its weight in the account of what is lost.

    Default: the length of `data` or `tokens`; of a rejected record, the mean of its range. Of a
    damaged file: the bytes of the range that were not read; None for all of them.
    """
    written_language: str | None = None
    """What the language columns have, if that is not the key itself."""

    @classmethod
    def reject(
        cls,
        language: str | None,
        reason: RejectReason,
        detail: str | None = None,
        *,
        size: int | None = None,
        columns: tuple[str, ...] = (),
    ) -> Document:
        """Create the document of a rejected record."""
        return cls(None, language, Rejected(reason, detail, columns), size=size)

    @classmethod
    def from_tokens(cls, tokens: np.ndarray, language: str | None) -> Document:
        """Create a document of token ids; rejected unless they are 1-D integers in [0, 2**31)."""
        if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
            return cls.reject(language, RejectReason.INVALID_TOKENS)
        if tokens.size and not 0 <= int(tokens.min()) <= int(tokens.max()) < 2**31:
            return cls.reject(language, RejectReason.INVALID_TOKENS)
        return cls(None, language, tokens=tokens.astype(np.int32))


class Row(NamedTuple):
    """Record of named values, before its text and language are taken."""

    values: dict[str, Any]
    size: int | None = None
    """See `Document.size`."""


class FileRange(BaseModel):
    """Range of an input file, read by one worker."""

    model_config = ConfigDict(frozen=True)

    path: str
    format: str
    compression: Compression
    language: str | None
    size: int
    modified: int
    """Size and modification time (ns) of the file when the work was planned."""
    start: int
    stop: int
    """Range in units of the format: bytes, row groups, documents or dataset shards."""
    input_bytes: int
    """Input bytes attributed to the range, for planning and progress."""
    problem: str | None = None
    """Error found in planning that makes the whole file unreadable."""

    @property
    def accounted_bytes(self) -> int:
        """Input bytes that the range has to account for: those of the file if it is unreadable."""
        if self.problem is None:
            return self.input_bytes
        return max(self.size, self.input_bytes)

    @property
    def is_whole(self) -> bool:
        """Whether the range is all bytes of its file."""
        return self.start == 0 and self.stop == self.size


@dataclass(frozen=True)
class InputFile:
    """Input file, with its size and modification time at discovery."""

    path: str
    format: str
    """Name of its `FileFormat`."""
    compression: Compression
    language: str | None
    """Language key of the whole file; None if columns give it."""
    size: int
    modified: int
    """Modification time in ns."""

    def range(self, start: int, stop: int, input_bytes: int) -> FileRange:
        """Return a range of this file."""
        return self._range(start, stop, input_bytes)

    def whole(self) -> list[FileRange]:
        """Return the file as a single range."""
        return [self._range(0, self.size, self.size)]

    def unreadable(self, problem: str, input_bytes: int = 1) -> list[FileRange]:
        """Return an empty range that reports `problem`.

        It loses `input_bytes`, if these are more than the size of the file.
        """
        return [self._range(0, 0, input_bytes, problem)]

    def _range(
        self, start: int, stop: int, input_bytes: int, problem: str | None = None
    ) -> FileRange:
        return FileRange(
            path=self.path,
            format=self.format,
            compression=self.compression,
            language=self.language,
            size=self.size,
            modified=self.modified,
            start=start,
            stop=stop,
            input_bytes=input_bytes,
            problem=problem,
        )
