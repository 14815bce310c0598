"""What one preprocessing run does, as a frozen typed model; everything that decides its bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

DEFAULT_CONTEXTS = (1024, 8192)
DEFAULT_VOCABULARY_SIZE = 32_768

# Of these settings the produced bytes do not depend.
_NOT_IN_OUTPUT = {
    "input",
    "output",
    "workers",
    "replace",
    "maximum_rejected_share",
    "fast_encoder",
}


class PrepSettings(BaseModel):
    """Settings of one run of the pipeline, for one source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: str
    """A folder, a file, or a glob pattern."""
    output: Path
    source: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "text"
    replace: bool = False
    """Make the source again where it exists with other input or settings."""
    workers: Annotated[int, Field(ge=1)] = 1

    language: str | None = None
    """The language of everything, where neither path nor column says it."""
    language_columns: tuple[str, ...] = ("language", "language_script")
    text_column: str = "text"
    text_unit: Literal["block", "line", "file"] = "block"

    tokenizer: Path | None = None
    """SentencePiece model or Hugging Face tokenizer folder; None: the output's, or train one."""
    vocabulary_size: Annotated[int, Field(ge=300)] | None = None
    tokenizer_sample_bytes: Annotated[int, Field(ge=10_000)] = 64_000_000
    tokenizer_temperature: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Bytes of a language in the training sample ~ (bytes in the input) ** temperature."""
    fast_encoder: Literal["auto", "none", "kitoken"] = "auto"

    heldout_share: Annotated[float, Field(ge=0, lt=1)] = 0.01
    minimum_characters: Annotated[int, Field(ge=1)] = 1
    maximum_bytes: Annotated[int, Field(ge=1000)] = 256_000_000
    """A longer document (or JSON line) is rejected; also what bounds a worker's memory."""
    deduplicate: bool = True
    remove_control_characters: bool = True
    normalization: Literal["NFC", "NFKC"] | None = None
    decontaminate: tuple[Path, ...] = ()
    decontaminate_ngram: Annotated[int, Field(ge=4)] = 13
    maximum_tokens_per_language: Annotated[int, Field(ge=1)] | None = None
    maximum_rejected_share: Annotated[float, Field(ge=0, le=1)] = 0.1

    contexts: tuple[int, ...] = DEFAULT_CONTEXTS
    shard_tokens: Annotated[int, Field(ge=1000)] = 1 << 28
    unit_bytes: Annotated[int, Field(ge=1000)] | None = None
    """Input bytes of one unit of work; None: a 256th of the input, between 0.5 and 64 MB."""

    def output_settings(self) -> dict[str, object]:
        """The settings that decide what is written, JSON-able, for comparison between runs."""
        return self.model_dump(mode="json", exclude=_NOT_IN_OUTPUT)
