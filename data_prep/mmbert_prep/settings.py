"""Settings of a preprocessing run, as frozen typed models.

Each part of the pipeline takes a small model; `PrepSettings` combines them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

DEFAULT_CONTEXTS = (1024, 8192)
DEFAULT_VOCABULARY_SIZE = 32_768

# Settings that do not affect the shards.
_NOT_IN_OUTPUT = {
    "input",
    "output",
    "workers",
    "replace",
    "maximum_rejected_fraction",
    "maximum_unread_fraction",
    "maximum_without_language_fraction",
    "fast_encoder",
}

# Fixed order of the other settings in summary.json: equal runs of all versions write equal bytes.
_OUTPUT_ORDER = (
    "source",
    "language",
    "language_columns",
    "text_column",
    "text_unit",
    "tokenizer",
    "vocabulary_size",
    "tokenizer_sample_bytes",
    "tokenizer_temperature",
    "heldout_share",
    "minimum_characters",
    "maximum_bytes",
    "deduplicate",
    "remove_control_characters",
    "normalization",
    "decontaminate",
    "decontaminate_ngram",
    "maximum_tokens_per_language",
    "contexts",
    "shard_tokens",
    "unit_bytes",
)


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SizeLimit(_Settings):
    """The maximum size of a document."""

    maximum_bytes: Annotated[int, Field(ge=1000)] = 256_000_000
    """Longer documents and JSON lines are rejected. Bounds the memory of a worker."""


class InputSettings(SizeLimit):
    """Input location, language, columns, and document unit of text files."""

    input: str
    """Folder, file, glob pattern, or `hf:DATASET`."""
    language: str | None = None
    """Language key of the whole input; overrides paths and columns."""
    language_columns: tuple[str, ...] = ("language", "language_script")
    text_column: str = "text"
    text_unit: Literal["block", "line", "file"] = "block"


class CleaningSettings(SizeLimit):
    """Cleaning and rejection of single documents."""

    minimum_characters: Annotated[int, Field(ge=1)] = 1
    remove_control_characters: bool = True
    normalization: Literal["NFC", "NFKC"] | None = None
    decontaminate: tuple[Path, ...] = ()
    decontaminate_ngram: Annotated[int, Field(ge=4)] = 13


class SplitSettings(_Settings):
    """Size of the held-out split."""

    heldout_share: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Fraction of documents, chosen by content hash."""


class LossSettings(_Settings):
    """Limits on what a run loses of its input."""

    maximum_unread_fraction: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Maximum fraction of input bytes that are not read, or of damaged documents."""
    maximum_rejected_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Maximum fraction of damaged documents."""
    maximum_without_language_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Maximum fraction of documents, and of input bytes, without a language."""


class EncodingSettings(InputSettings, CleaningSettings, LossSettings):
    """Reading, cleaning and encoding of documents."""


class SamplingSettings(InputSettings, SplitSettings):
    """Sample of the input for training or checking a tokenizer."""

    tokenizer_sample_bytes: Annotated[int, Field(ge=10_000)] = 64_000_000
    tokenizer_temperature: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Bytes of a language in the sample ~ (bytes in the input) ** temperature."""


class SelectionSettings(SplitSettings):
    """Selection of the documents of a language, and their division into shards."""

    deduplicate: bool = True
    maximum_tokens_per_language: Annotated[int, Field(ge=1)] | None = None
    shard_tokens: Annotated[int, Field(ge=1000)] = 1 << 28


class PrepSettings(EncodingSettings, SamplingSettings, SelectionSettings):
    """All settings of one run of the pipeline, for one source."""

    output: Path
    source: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "text"
    replace: bool = False
    """Remake a finished source if its input or settings have changed."""
    workers: Annotated[int, Field(ge=1)] = 1
    tokenizer: Path | None = None
    """SentencePiece model or Hugging Face folder. Default: the one in `output`, or a new one."""
    vocabulary_size: Annotated[int, Field(ge=300)] | None = None
    fast_encoder: Literal["auto", "none", "kitoken"] = "auto"
    contexts: tuple[int, ...] = DEFAULT_CONTEXTS
    unit_bytes: Annotated[int, Field(ge=1000)] | None = None
    """Input bytes per work unit. Default: 1/256 of the input, clamped to 2-64 MB."""

    def output_settings(self) -> dict[str, object]:
        """Return the settings that affect the shards, as JSON values."""
        values = self.model_dump(mode="json", exclude=_NOT_IN_OUTPUT)
        return {name: values[name] for name in sorted(values, key=_OUTPUT_ORDER.index)}
