"""Intermediate shards: the tokens, hashes and lengths of the documents of one work unit.

`<key>.tokens` is a raw array of tokens and `<key>.documents` an array of DOCUMENT_DTYPE. Both
are divided into one section per language. `<key>.signatures`, uint16[documents, permutations], is
there only if near-duplicates are looked for. `<key>.json` lists the sections and the counts; it is
written last and marks the unit as done.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
from pydantic import BaseModel, Field

from mmbert.files import explained_write_errors, sync_folder, write_json
from mmbert_prep.executor.storage import read_json
from mmbert_prep.readers import RejectReason
from mmbert_prep.readers.accounting import FileLoss, RangeBytes

# Halves of the XXH3-128 hash of a document, and its length in tokens and bytes.
DOCUMENT_DTYPE = np.dtype([("high", "<u8"), ("low", "<u8"), ("tokens", "<u4"), ("bytes", "<u4")])

# Tokens buffered before sections are written; bounds the memory of a worker. Four bytes of
# signatures count as a token.
_FLUSH_TOKENS = 8_000_000


OTHER_LANGUAGES = "…"
"""Stands for further texts in language columns, of which there may be one for each document."""
_MOST_WRITTEN_LANGUAGES = 1_000


class Section(BaseModel):
    """Consecutive documents of one language in an intermediate shard."""

    language: str
    first_document: int
    documents: int
    first_token: int
    tokens: int


@dataclass(slots=True)
class LanguageCounts:
    """Counts of one language in an intermediate shard."""

    # Not a pydantic model, because it is updated for each document.
    read: int = 0
    rejected: dict[RejectReason, int] = field(default_factory=dict)
    input_bytes: int = 0
    unread_bytes: int = 0
    """Input bytes, and those that could not be read or belong to damaged documents."""
    cleaned: int = 0
    """Number of kept documents changed by cleaning."""
    tokens: int = 0
    """Tokens before selection, including byte-fallback and unknown tokens."""
    byte_tokens: int = 0
    """Byte-fallback tokens: single bytes of characters outside the vocabulary."""
    unknown_tokens: int = 0
    measured_words: int = 0
    measured_tokens: int = 0
    measured_characters: int = 0
    """Words, tokens and characters of one in 16 documents, for tokens per word."""

    def reject(self, reason: RejectReason, documents: int = 1) -> None:
        """Count rejected documents."""
        if documents:
            self.rejected[reason] = self.rejected.get(reason, 0) + documents

    @property
    def damaged(self) -> int:
        """Documents rejected because the input is damaged."""
        return sum(count for reason, count in self.rejected.items() if reason.damage)

    def add(self, other: LanguageCounts) -> None:
        """Add the counts of another intermediate shard."""
        for name in (entry.name for entry in fields(self)):
            value = getattr(other, name)
            if name == "rejected":
                for reason, documents in value.items():
                    self.reject(reason, documents)
            else:
                setattr(self, name, getattr(self, name) + value)


class UnitReport(BaseModel):
    """Content of the JSON file of a work unit. The key "" counts documents without a language."""

    sections: list[Section] = Field(default_factory=list)
    counts: dict[str, LanguageCounts] = Field(default_factory=dict)
    damaged: list[str] = Field(default_factory=list)
    """Files that could not be read completely, with the reason."""
    losses: list[FileLoss] = Field(default_factory=list)
    """What file ranges lost."""
    written_languages: dict[str, int] = Field(default_factory=dict)
    """What language columns have instead of a key -> documents; OTHER_LANGUAGES for the rest."""

    def count_written_language(self, written: str) -> None:
        """Count a document whose language columns do not have a key."""
        counts = self.written_languages
        if written not in counts and len(counts) >= _MOST_WRITTEN_LANGUAGES:
            written = OTHER_LANGUAGES
        counts[written] = counts.get(written, 0) + 1


class IntermediateWriter:
    """Collects the documents of a work unit by language and writes its files."""

    def __init__(self, folder: Path, key: str, dtype: np.dtype, with_signatures: bool = False):
        self.report = UnitReport()
        self._folder, self._key, self._dtype = folder, key, dtype
        self._tokens: dict[str, list[np.ndarray]] = {}
        self._documents: dict[str, list[np.ndarray]] = {}
        self._signatures: dict[str, list[np.ndarray]] = {}
        self._pending = self._written_documents = self._written_tokens = 0
        suffixes = ("tokens", "documents", *(["signatures"] if with_signatures else []))
        with explained_write_errors(self._path("tokens")):
            self._files = {
                suffix: open(self._path(f"{suffix}.partial"), "wb")  # noqa: SIM115
                for suffix in suffixes
            }

    def _path(self, suffix: str) -> Path:
        return self._folder / f"{self._key}.{suffix}"

    def counts(self, language: str) -> LanguageCounts:
        """Return the counts of a language, for in-place updates."""
        counts = self.report.counts.get(language)
        if counts is None:
            counts = self.report.counts[language] = LanguageCounts()
        return counts

    def add_range(self, result: RangeBytes) -> None:
        """Add the account of a file range, once its documents are counted."""
        counts = self.report.counts
        for language, size in result.input_bytes.items():
            if language in counts:  # else it has no documents
                counts[language].input_bytes += size
        for language, size in result.unread_bytes.items():
            self.counts(language).unread_bytes += size
        if result.loss is not None:
            self.report.losses.append(result.loss)

    def add(
        self,
        language: str,
        tokens: np.ndarray,
        documents: np.ndarray,
        signatures: np.ndarray | None = None,
    ) -> None:
        """Append documents: their concatenated tokens, DOCUMENT_DTYPE[n] records, signatures."""
        self._tokens.setdefault(language, []).append(tokens.astype(self._dtype, copy=False))
        self._documents.setdefault(language, []).append(documents)
        if signatures is not None:
            self._signatures.setdefault(language, []).append(signatures)
            self._pending += signatures.nbytes // 4
        self._pending += len(tokens)
        if self._pending >= _FLUSH_TOKENS:
            self._flush()

    def _flush(self) -> None:
        for language in sorted(self._tokens):
            tokens = np.concatenate(self._tokens[language])
            documents = np.concatenate(self._documents[language])
            with explained_write_errors(self._path("tokens")):
                self._files["tokens"].write(tokens.data)
                self._files["documents"].write(documents.tobytes())
                for signatures in self._signatures.get(language, []):
                    self._files["signatures"].write(signatures.tobytes())
            self.report.sections.append(
                Section(
                    language=language,
                    first_document=self._written_documents,
                    documents=len(documents),
                    first_token=self._written_tokens,
                    tokens=len(tokens),
                )
            )
            self._written_documents += len(documents)
            self._written_tokens += len(tokens)
        self._tokens, self._documents, self._signatures, self._pending = {}, {}, {}, 0

    def finish(self) -> UnitReport:
        """Write the remaining documents and the report, which marks the unit as done."""
        self._flush()
        with explained_write_errors(self._path("tokens")):
            for suffix, file in self._files.items():
                file.flush()
                os.fsync(file.fileno())
                file.close()
                os.replace(self._path(f"{suffix}.partial"), self._path(suffix))
            sync_folder(self._folder)
        write_json(self._path("json"), self.report.model_dump(mode="json"))
        return self.report

    def abort(self) -> None:
        """Close and remove the files written so far."""
        for suffix, file in self._files.items():
            file.close()
            self._path(f"{suffix}.partial").unlink(missing_ok=True)


def read_unit_report(folder: Path, key: str) -> UnitReport:
    """Read the report of a finished unit."""
    return UnitReport.model_validate(read_json(folder / f"{key}.json"))


def is_done(folder: Path, key: str) -> bool:
    """Return whether the unit is finished."""
    return (folder / f"{key}.json").exists()


def map_section(
    folder: Path, key: str, section: Section, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens and the DOCUMENT_DTYPE records of a section, as read-only memory maps."""
    tokens = np.memmap(
        folder / f"{key}.tokens",
        dtype=dtype,
        mode="r",
        offset=section.first_token * dtype.itemsize,
        shape=(section.tokens,),
    )
    return tokens, map_documents(folder, key, section)


def map_documents(folder: Path, key: str, section: Section) -> np.ndarray:
    """Return the DOCUMENT_DTYPE records of a section, as a read-only memory map."""
    return np.memmap(
        folder / f"{key}.documents",
        dtype=DOCUMENT_DTYPE,
        mode="r",
        offset=section.first_document * DOCUMENT_DTYPE.itemsize,
        shape=(section.documents,),
    )


def read_signatures(
    folder: Path, key: str, first: int, documents: int, permutations: int
) -> np.ndarray:
    """Return signatures of a unit's documents from `first` on, uint16[documents, permutations].

    They are read and not mapped: what stays mapped would count as memory of the worker.
    """
    row = permutations * np.dtype(np.uint16).itemsize
    values = np.fromfile(
        folder / f"{key}.signatures", np.uint16, documents * permutations, offset=first * row
    )
    return values.reshape(documents, permutations)
