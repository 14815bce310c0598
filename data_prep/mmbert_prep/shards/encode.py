"""Encode one unit of work: read, clean, hash, tokenise in batches, write its part."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmbert.data.shards.indexed_dataset import dtype_for_vocabulary
from mmbert.data.shards.tokenizer_description import SpecialIds
from mmbert.errors import UserError
from mmbert_prep.executor.progress import Meter
from mmbert_prep.executor.work_units import WorkUnit
from mmbert_prep.executor.workers import WorkerGroup
from mmbert_prep.filters.cleaning import Cleaner, CleanText, content_hashes
from mmbert_prep.readers import DAMAGE_REASONS, Document, FileRange, read_range
from mmbert_prep.settings import PrepSettings
from mmbert_prep.shards.intermediate import (
    DOCUMENT_DTYPE,
    IntermediateWriter,
    LanguageCounts,
    UnitReport,
)
from mmbert_prep.tokenization.fast_encoder import BatchEncoder

_BATCH_BYTES = 2_000_000
_BATCH_DOCUMENTS = 4_096
_MAX_DOCUMENT_TOKENS = 2**31 - 1  # tokens: what Megatron's index can say
_ORDINARY, _BYTE, _UNKNOWN, _RESERVED = range(4)
_MEASURE_EVERY = 16  # every so many-th document by hash is measured for the fertility report
# Below so many documents a share of bad ones says nothing.
MIN_DOCUMENTS_FOR_CHECK = 1_000


class UnitEncoder:
    """Encodes units one after the other; one per worker, for a whole run."""

    def __init__(
        self,
        settings: PrepSettings,
        encoder: BatchEncoder,
        folder: Path,
        meter: Meter,
        group: WorkerGroup,
    ) -> None:
        self._settings, self._encoder, self._folder = settings, encoder, folder
        self._meter, self._group = meter, group
        self._cleaner = Cleaner(settings)
        description = encoder.reference.description
        self._dtype = dtype_for_vocabulary(description.vocabulary_size)
        # One look-up per token tells what it is.
        self._kinds = np.full(description.vocabulary_size, _ORDINARY, dtype=np.uint8)
        self._kinds[encoder.reference.byte_ids] = _BYTE
        self._kinds[list(description.special_ids.all())] = _RESERVED
        self._kinds[description.special_ids.unknown] = _UNKNOWN
        self._read = self._damaged = 0

    def run(self, unit: WorkUnit) -> None:
        """Encode a unit; its part appears when it is complete."""
        writer = IntermediateWriter(self._folder, unit.key, self._dtype)
        try:
            for file_range in unit.file_ranges:
                self._encode_range(file_range, writer)
            self._check_damaged_fraction(writer.report)
            writer.finish()
        except BaseException:
            writer.abort()
            raise

    def _encode_range(self, file_range: FileRange, writer: IntermediateWriter) -> None:
        batch: list[tuple[str, CleanText]] = []
        tokenized: list[tuple[str, np.ndarray]] = []
        size = shown = 0
        # Progress inside a big file, whose text is about so many times its size on disk.
        expansion = 3 if file_range.compression != "none" or file_range.format == "parquet" else 1
        self._meter.reading(file_range.path)
        for document in read_range(file_range, self._settings):
            counts = writer.counts(document.language or "")
            counts.read += 1
            clean = self._clean(document)
            if isinstance(clean, str):
                _count(counts.rejected, clean, 1)
                self._note_damage(document, clean, writer)
                continue
            assert document.language is not None, "what has no language is rejected"
            if isinstance(clean, np.ndarray):
                tokenized.append((document.language, clean))
                size += clean.nbytes
            else:
                counts.cleaned += clean.changed
                batch.append((document.language, clean))
                size += len(clean.data)
            if size >= _BATCH_BYTES or len(batch) + len(tokenized) >= _BATCH_DOCUMENTS:
                self._flush(batch, tokenized, writer)
                step = min(size // expansion, file_range.input_bytes - shown)
                self._meter.add(weight=step)
                shown += step
                batch, tokenized, size = [], [], 0
                self._group.check()
        self._flush(batch, tokenized, writer)
        self._meter.add(weight=file_range.input_bytes - shown)

    def _clean(self, document: Document) -> CleanText | np.ndarray | str:
        if document.tokens is None:
            return self._cleaner.clean(document)
        return (
            "missing_language" if document.language is None else self._check_tokens(document.tokens)
        )

    def _flush(
        self,
        batch: list[tuple[str, CleanText]],
        tokenized: list[tuple[str, np.ndarray]],
        writer: IntermediateWriter,
    ) -> None:
        if batch:
            self._encode(batch, writer)
        if tokenized:
            self._write_tokenized(tokenized, writer)

    @staticmethod
    def _note_damage(document: Document, reason: str, writer: IntermediateWriter) -> None:
        if reason == "damaged_file" and document.detail:
            writer.report.damaged.append(document.detail)

    def _write_tokenized(
        self, batch: list[tuple[str, np.ndarray]], writer: IntermediateWriter
    ) -> None:
        """Write documents that are tokenised already."""
        languages: dict[str, list[np.ndarray]] = {}
        for language, tokens in batch:
            languages.setdefault(language, []).append(tokens)
        lengths = self._encoder.reference.byte_lengths
        for language, arrays in languages.items():
            sizes = [int(lengths[tokens].sum()) for tokens in arrays]
            self._write(language, arrays, [tokens.tobytes() for tokens in arrays], sizes, writer)

    @staticmethod
    def strip_special_tokens(tokens: np.ndarray, special_ids: SpecialIds) -> np.ndarray:
        """Tokens without the begin and end that frame them."""
        start, end = 0, len(tokens)
        while start < end and tokens[start] == special_ids.begin:
            start += 1
        while start < end and tokens[end - 1] == special_ids.end:
            end -= 1
        return tokens[start:end]

    def _check_tokens(self, tokens: np.ndarray) -> np.ndarray | str:
        """Tokens without what frames a document, or the reason for rejecting them."""
        tokens = self.strip_special_tokens(tokens, self._encoder.reference.description.special_ids)
        if not len(tokens):
            return "empty"
        if int(tokens.max()) >= len(self._kinds) or np.any(self._kinds[tokens] == _RESERVED):
            return "invalid_tokens"
        return tokens

    def _encode(self, batch: list[tuple[str, CleanText]], writer: IntermediateWriter) -> None:
        arrays = self._encoder.encode(
            [clean.text for _, clean in batch], [language for language, _ in batch]
        )
        languages: dict[str, list[int]] = {}
        for index, (language, _) in enumerate(batch):
            languages.setdefault(language, []).append(index)
        for language, indices in languages.items():
            texts = [batch[i][1] for i in indices]
            data = [text.data for text in texts]
            ids = [arrays[i] for i in indices]
            hashes = self._write(language, ids, data, [len(text) for text in data], writer)
            self._measure(writer.counts(language), texts, ids, hashes)
        self._meter.add(
            documents=len(batch),
            size=sum(len(clean.data) for _, clean in batch),
            tokens=sum(len(array) for array in arrays),
        )

    def _write(
        self,
        language: str,
        arrays: list[np.ndarray],
        data: list[bytes],
        sizes: list[int],
        writer: IntermediateWriter,
    ) -> np.ndarray:
        """Write documents of one language; returns the hashes of their `data`, uint64[n, 2]."""
        counts = writer.counts(language)
        hashes = content_hashes(data)
        documents = np.empty(len(arrays), dtype=DOCUMENT_DTYPE)
        documents["high"], documents["low"] = hashes[:, 0], hashes[:, 1]
        lengths = np.array([len(array) for array in arrays], dtype=np.int64)
        documents["bytes"] = sizes
        good = (lengths > 0) & (lengths <= _MAX_DOCUMENT_TOKENS)
        if not good.all():
            _count(counts.rejected, "no_tokens", int(np.count_nonzero(lengths == 0)))
            _count(
                counts.rejected, "too_long", int(np.count_nonzero(lengths > _MAX_DOCUMENT_TOKENS))
            )
            arrays = [array for array, kept in zip(arrays, good, strict=True) if kept]
        documents["tokens"] = np.where(good, lengths, 0)
        if arrays:
            tokens = np.concatenate(arrays)
            kinds = self._kinds[tokens]
            if np.any(kinds == _RESERVED):
                raise AssertionError(f"the tokenizer made a reserved id out of {language} text")
            counts.tokens += len(tokens)
            counts.byte_tokens += int(np.count_nonzero(kinds == _BYTE))
            counts.unknown_tokens += int(np.count_nonzero(kinds == _UNKNOWN))
            writer.add(language, tokens, documents[good])
        return hashes

    @staticmethod
    def _measure(
        counts: LanguageCounts, texts: list[CleanText], arrays: list[np.ndarray], hashes: np.ndarray
    ) -> None:
        for index in np.flatnonzero(hashes[:, 1] % _MEASURE_EVERY == 0):
            text = texts[index].text
            counts.measured_words += len(text.split())
            counts.measured_characters += len(text)
            counts.measured_tokens += len(arrays[index])

    def _check_damaged_fraction(self, report: UnitReport) -> None:
        for counts in report.counts.values():
            self._read += counts.read
            self._damaged += count_damaged(counts.rejected)
        check_damaged_fraction(self._damaged, self._read, self._settings.maximum_rejected_share)


def count_damaged(rejected: dict[str, int]) -> int:
    """How many documents were rejected because the input is damaged."""
    return sum(count for reason, count in rejected.items() if reason in DAMAGE_REASONS)


def check_damaged_fraction(damaged: int, read: int, most: float) -> None:
    """Raise UserError when more than the allowed share of the documents read so far is bad."""
    if read >= MIN_DOCUMENTS_FOR_CHECK and damaged > most * read:
        raise UserError(
            f"{damaged:,} of the {read:,} documents read so far are damaged "
            f"({damaged / read:.1%}), more than the allowed {most:.1%}",
            remedy="mend the input (the reasons are broken JSON, missing columns, invalid UTF-8, "
            "damaged files: see --dry-run and the input itself), or allow more with "
            "--maximum-rejected-share; running again continues",
        )


def _count(counts: dict[str, int], reason: str, number: int) -> None:
    if number:
        counts[reason] = counts.get(reason, 0) + number
