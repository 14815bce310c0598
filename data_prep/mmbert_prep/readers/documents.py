"""Input and output of the readers: files, ranges of files, and documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from mmbert_prep.readers.rejection import Rejected, RejectReason

Compression = Literal["none", "gzip", "zstd"]


class Document(NamedTuple):
    """One record of the input: a text, token ids, or a reason for rejection."""

    data: bytes | None
    """The text as UTF-8, not validated yet."""
    language: str | None
    """Language key, None when neither the path nor a column gives one."""
    rejected: Rejected | None = None
    """Reason for rejection, if the reader cannot use the record."""
    tokens: np.ndarray | None = None
    """int32[n] ids of input that is already tokenized."""
    text: str | None = None
    """`data` decoded, if the reader had to decode it anyway."""

    @classmethod
    def reject(
        cls, language: str | None, reason: RejectReason, detail: str | None = None
    ) -> Document:
        """Make the document of a record that cannot be used."""
        return cls(None, language, Rejected(reason, detail))

    @classmethod
    def from_tokens(cls, tokens: np.ndarray, language: str | None) -> Document:
        """Make a document of token ids; rejected unless they are a vector of int32 from 0 on."""
        if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
            return cls.reject(language, RejectReason.INVALID_TOKENS)
        if tokens.size and not 0 <= int(tokens.min()) <= int(tokens.max()) < 2**31:
            return cls.reject(language, RejectReason.INVALID_TOKENS)
        return cls(None, language, tokens=tokens.astype(np.int32))


class FileRange(BaseModel):
    """A range of one input file that one worker reads."""

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
    """Range in the units of the format: bytes of lines, row groups, documents."""
    input_bytes: int
    """Input bytes that the range accounts for, in planning and progress."""
    problem: str | None = None
    """Why the file cannot be read at all, if planning found that."""


@dataclass(frozen=True)
class InputFile:
    """One input file and its state when it was found."""

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

    def unreadable(self, problem: str) -> list[FileRange]:
        """Return an empty range that reports `problem`."""
        return [self._range(0, 0, 1, problem)]

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
