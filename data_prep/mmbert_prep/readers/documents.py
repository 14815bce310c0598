"""What readers take and give: segments of files in, documents (or what is wrong with them) out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

Format = Literal["parquet", "jsonl", "text", "megatron", "mds", "hub"]
Compression = Literal["none", "gzip", "zstd"]

# Reasons that mean that the input is damaged (as opposed to not wanted); their share is limited.
DAMAGE_REASONS = frozenset(
    {
        "invalid_utf8",
        "broken_json",
        "missing_text",
        "missing_language",
        "damaged_file",
        "too_long",
        "invalid_tokens",
    }
)


class Document(NamedTuple):
    """One document, or one thing that was meant to be one.

    `data` is the text in valid UTF-8 or None; `language` its key, None when nothing says it;
    `problem` the reason for rejecting it where the reader already knows; `detail` says more about
    a problem of a whole file; `tokens` the ids (int32) where the input is already tokenised.
    """

    data: bytes | None
    language: str | None
    problem: str | None = None
    detail: str | None = None
    tokens: np.ndarray | None = None
    text: str | None = None
    """The same as `data` where the reader had to decode it anyway."""


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
