"""Settings of a preprocessing run, as frozen typed models.

Each part of the pipeline takes a small model; `PrepSettings` combines them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

DEFAULT_CONTEXTS = (1024, 8192)
DEFAULT_VOCABULARY_SIZE = 32_768

# Sizes on disk and in files are 64-bit integers; no machine has more.
_LARGEST = 1 << 50

Text = Annotated[str, Field(pattern=r"\S")]
"""Text that is not blank: an empty option is an unset variable of a shell."""

# Settings that do not affect the shards.
_NOT_IN_OUTPUT = {
    "input",
    "output",
    "workers",
    "replace",
    "maximum_rejected_fraction",
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
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SizeLimit(_Settings):
    """The maximum size of a document."""

    maximum_bytes: Annotated[int, Field(ge=1000, le=_LARGEST)] = 256_000_000
    """Longer documents and JSON lines are rejected. Bounds the memory of a worker."""


class InputSettings(SizeLimit):
    """Input location, language, columns, and document unit of text files."""

    input: Text
    """Folder, file, glob pattern, or `hf:DATASET`."""
    language: Text | None = None
    """Language key of the whole input; overrides paths and columns."""
    language_columns: tuple[Text, ...] = ("language", "language_script")
    text_column: Text = "text"
    text_unit: Literal["block", "line", "file"] = "block"


class CleaningSettings(SizeLimit):
    """Cleaning and rejection of single documents."""

    minimum_characters: Annotated[int, Field(ge=1, le=_LARGEST)] = 1
    remove_control_characters: bool = True
    normalization: Literal["NFC", "NFKC"] | None = None
    decontaminate: tuple[Path, ...] = ()
    decontaminate_ngram: Annotated[int, Field(ge=4, le=1000)] = 13


class SplitSettings(_Settings):
    """Size of the held-out split."""

    heldout_share: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Fraction of documents, chosen by content hash."""


class EncodingSettings(InputSettings, CleaningSettings):
    """Reading, cleaning and encoding of documents."""

    maximum_rejected_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Maximum fraction of damaged documents."""


class SamplingSettings(InputSettings, SplitSettings):
    """Sample of the input for training or checking a tokenizer."""

    tokenizer_sample_bytes: Annotated[int, Field(ge=10_000, le=_LARGEST)] = 64_000_000
    tokenizer_temperature: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Bytes of a language in the sample ~ (bytes in the input) ** temperature."""


class SelectionSettings(SplitSettings):
    """Selection of the documents of a language, and their division into shards."""

    deduplicate: bool = True
    maximum_tokens_per_language: Annotated[int, Field(ge=1, le=_LARGEST)] | None = None
    shard_tokens: Annotated[int, Field(ge=1000, le=_LARGEST)] = 1 << 28


class PrepSettings(EncodingSettings, SamplingSettings, SelectionSettings):
    """All settings of one run of the pipeline, for one source."""

    output: Path
    source: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "text"
    replace: bool = False
    """Remake a finished source if its input or settings have changed."""
    workers: Annotated[int, Field(ge=1, le=4096)] = 1
    tokenizer: Path | None = None
    """SentencePiece model or Hugging Face folder. Default: the one in `output`, or a new one."""
    vocabulary_size: Annotated[int, Field(ge=300, le=1 << 24)] | None = None
    fast_encoder: Literal["auto", "none", "kitoken"] = "auto"
    contexts: tuple[Annotated[int, Field(gt=2, lt=1 << 31)], ...] = DEFAULT_CONTEXTS
    unit_bytes: Annotated[int, Field(ge=1000, le=_LARGEST)] | None = None
    """Input bytes per work unit. Default: 1/256 of the input, clamped to 2-64 MB."""

    def output_settings(self) -> dict[str, object]:
        """Return the settings that affect the shards, as JSON values."""
        values = self.model_dump(mode="json", exclude=_NOT_IN_OUTPUT)
        return {name: values[name] for name in sorted(values, key=_OUTPUT_ORDER.index)}
