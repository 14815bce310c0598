"""What readers take and give: segments of files in, documents (or what is wrong with them) out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from mmbert_prep.readers.rejection import Rejected, RejectReason

Format = Literal["parquet", "jsonl", "text", "megatron", "mds", "hub"]
Compression = Literal["none", "gzip", "zstd"]


class Document(NamedTuple):
    """One record of the input: a text, token ids, or the reason why it has neither."""

    data: bytes | None
    """The text as UTF-8, not validated yet."""
    language: str | None
    """Language key, None when neither the path nor a column gives one."""
    rejected: Rejected | None = None
    """Set by the reader of a record that cannot be used."""
    tokens: np.ndarray | None = None
    """int32[n] ids of input that is already tokenized."""
    text: str | None = None
    """`data` decoded, if the reader had to decode it anyway."""

    @classmethod
    def reject(
        cls, language: str | None, reason: RejectReason, detail: str | None = None
    ) -> Document:
        """A record that cannot be used."""
        return cls(None, language, Rejected(reason, detail))


@dataclass(frozen=True)
class InputFile:
    """One input file: its path, form, language (None: its columns say) and state on disk."""

    path: str
    format: Format
    compression: Compression
    language: str | None
    size: int
    modified: int


class FileRange(BaseModel):
    """A part of one input file that one worker reads: bytes, row groups or everything."""

    model_config = ConfigDict(frozen=True)

    path: str
    format: Format
    compression: Compression
    language: str | None
    size: int
    modified: int
    """Size and modification time (ns) of the file when the work was planned."""
    start: int
    stop: int
    """Byte range of plain lines, range of row groups of Parquet; 0 … size for whole files."""
    input_bytes: int
    """Input bytes that this part stands for: what work is divided by and progress is shown in."""
    problem: str | None = None
    """Why the file cannot be read at all, found while planning."""
