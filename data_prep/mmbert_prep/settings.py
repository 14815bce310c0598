"""Settings of a preprocessing run, as frozen typed models.

Each part of the pipeline takes a small model; `PrepSettings` combines them.
"""

from __future__ import annotations

import codecs
import io
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from mmbert_prep.languages.overrides import LanguageMap

UTF_8 = "utf-8"
DEFAULT_CONTEXTS = (1024, 8192)
DEFAULT_VOCABULARY_SIZE = 32_768
MIN_VOCABULARY_SIZE = 300

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
    "near_duplicate_memory",
}

# Fixed order of the other settings in summary.json: equal runs of all versions write equal bytes.
_OUTPUT_ORDER = (
    "source",
    "language",
    "language_columns",
    "language_map",
    "text_column",
    "text_unit",
    "encoding",
    "delimiter",
    "quotes",
    "where",
    "tokenizer",
    "vocabulary_size",
    "tokenizer_sample_bytes",
    "tokenizer_temperature",
    "heldout_share",
    "minimum_characters",
    "maximum_bytes",
    "deduplicate",
    "near_duplicates",
    "near_duplicate_permutations",
    "remove_control_characters",
    "normalization",
    "decontaminate",
    "decontaminate_ngram",
    "maximum_tokens_per_language",
    "contexts",
    "shard_tokens",
    "unit_bytes",
    "earlier_sources",
)

# Newer settings, absent in summary.json at their defaults.
_ABSENT_AT_DEFAULT = (
    "language_map",
    "encoding",
    "delimiter",
    "quotes",
    "where",
    "near_duplicates",
    "earlier_sources",
)
# Codecs of Python for other purposes than text in files.
_NOT_ENCODINGS = {"idna", "punycode", "undefined", "unicode_escape", "raw_unicode_escape"}


def _known_encoding(name: str) -> str:
    """Return Python's own name of an encoding: spellings of one name give the same shards."""
    try:
        io.TextIOWrapper(io.BytesIO(), encoding=name)  # refuses codecs such as hex
        encoding = codecs.lookup(name)
    except (LookupError, ValueError) as error:
        raise ValueError(f"Python knows no text encoding {name!r}, such as cp1252") from error
    known = encoding.name.replace("-", "_")
    if known in _NOT_ENCODINGS or encoding.incrementaldecoder is None:
        raise ValueError(f"{name!r} is no encoding of text files, such as cp1252")
    return UTF_8 if encoding.name == "utf-8-sig" else encoding.name


def _one_character(text: str) -> str:
    text = {"tab": "\t", "\\t": "\t"}.get(text, text)
    if len(text) != 1 or text in '" \r\n':
        raise ValueError(f"{text!r} is not one character, such as ';', or tab")
    return text


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
    language_map: LanguageMap = LanguageMap()
    """Languages of names in paths and columns, given by the user."""
    text_column: Text = "text"
    text_unit: Literal["block", "line", "file"] = "block"
    encoding: Annotated[str, AfterValidator(_known_encoding)] = UTF_8
    """Encoding of text, JSON and CSV files without a byte order mark, by Python's name."""
    delimiter: Annotated[str, AfterValidator(_one_character)] | None = None
    """Character between the columns of CSV and TSV files. Default: by the header."""
    quotes: bool = True
    """Whether quotation marks enclose columns of CSV and TSV files."""
    where: tuple[str, ...] = ()
    """Conditions on the columns of a row, all of which must hold (`readers.where`)."""


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


class NearDuplicateSettings(_Settings):
    """Search for near-duplicates within a language."""

    near_duplicates: Annotated[float, Field(ge=0.5, le=1)] | None = None
    """Jaccard similarity from which on documents are near-duplicates. Default: no search."""
    near_duplicate_permutations: Annotated[int, Field(ge=32, le=1024)] = 128
    """Values of a document's signature, of two bytes each."""


class EncodingSettings(InputSettings, CleaningSettings, NearDuplicateSettings):
    """Reading, cleaning and encoding of documents."""

    maximum_rejected_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Maximum fraction of damaged documents."""


class SamplingSettings(InputSettings, SplitSettings):
    """Sample of the input for training or checking a tokenizer."""

    tokenizer_sample_bytes: Annotated[int, Field(ge=10_000, le=_LARGEST)] = 64_000_000
    tokenizer_temperature: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Bytes of a language in the sample ~ (bytes in the input) ** temperature."""


class SelectionSettings(SplitSettings, NearDuplicateSettings):
    """Selection of the documents of a language, and their division into shards."""

    deduplicate: bool = True
    near_duplicate_memory: Annotated[int, Field(ge=32_000_000, le=_LARGEST)] = 800_000_000
    """Bytes that a worker uses to compare the documents of a language."""
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
    vocabulary_size: Annotated[int, Field(ge=MIN_VOCABULARY_SIZE, le=1 << 24)] | None = None
    fast_encoder: Literal["auto", "none", "kitoken"] = "auto"
    contexts: tuple[Annotated[int, Field(gt=2, lt=1 << 31)], ...] = DEFAULT_CONTEXTS
    unit_bytes: Annotated[int, Field(ge=1000, le=_LARGEST)] | None = None
    """Input bytes per work unit. Default: 1/256 of the input, clamped to 2-64 MB."""
    earlier_sources: dict[str, str] = {}
    """Sources before this one in the same call -> their fingerprints: what they have is not
    taken again."""

    def output_settings(self) -> dict[str, object]:
        """Return the settings that affect the shards, as JSON values."""
        values = self.model_dump(mode="json", exclude=_NOT_IN_OUTPUT)
        for name in _ABSENT_AT_DEFAULT:
            if getattr(self, name) == type(self).model_fields[name].default:
                del values[name]
        if self.near_duplicates is None:
            del values["near_duplicate_permutations"]  # without a search, it has no effect
        return {name: values[name] for name in sorted(values, key=_OUTPUT_ORDER.index)}
