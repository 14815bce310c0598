"""Encoding of a work unit: read, clean, hash and tokenize documents into an intermediate shard."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmbert.data.shards.indexed_dataset import dtype_for_vocabulary
from mmbert.data.shards.tokenizer_description import SpecialIds
from mmbert_prep.executor.progress import Meter
from mmbert_prep.executor.work_units import WorkUnit
from mmbert_prep.executor.workers import WorkerGroup
from mmbert_prep.filters.cleaning import Cleaner, CleanText, content_hashes
from mmbert_prep.filters.signatures import Signer
from mmbert_prep.losses.ledger import LossLedger
from mmbert_prep.readers import Document, FileRange, Rejected, RejectReason, read_range
from mmbert_prep.readers.accounting import RangeAccount
from mmbert_prep.readers.registry import expansion
from mmbert_prep.settings import EncodingSettings
from mmbert_prep.shards.intermediate import DOCUMENT_DTYPE, IntermediateWriter, LanguageCounts
from mmbert_prep.tokenization.fast_encoder import BatchEncoder

_BATCH_BYTES = 2_000_000
_BATCH_DOCUMENTS = 4_096
_MAX_DOCUMENT_TOKENS = 2**31 - 1  # limit of Megatron's index
_ORDINARY, _BYTE, _UNKNOWN, _RESERVED = range(4)
_MEASURE_EVERY = 16  # one document in this many, by hash, is measured for tokens per word
# Lost bytes, after decompression, after which the limits are checked inside a file range.
_CHECK_BYTES = 1 << 26


class UnitEncoder:
    """Encoder of work units; one per worker and run."""

    def __init__(
        self,
        settings: EncodingSettings,
        encoder: BatchEncoder,
        folder: Path,
        meter: Meter,
        group: WorkerGroup,
        ledger: LossLedger,
        cleaner: Cleaner | None = None,
    ) -> None:
        self._settings, self._encoder, self._folder = settings, encoder, folder
        self._meter, self._group, self._ledger = meter, group, ledger
        self._cleaner = cleaner or Cleaner(settings)
        near = settings.near_duplicates is not None
        self._signer = Signer(settings.near_duplicate_permutations) if near else None
        description = encoder.reference.description
        self._dtype = dtype_for_vocabulary(description.vocabulary_size)
        # Kind of each token id, for a single look-up per token.
        self._kinds = np.full(description.vocabulary_size, _ORDINARY, dtype=np.uint8)
        self._kinds[encoder.reference.byte_ids] = _BYTE
        self._kinds[list(description.special_ids.all())] = _RESERVED
        self._kinds[description.special_ids.unknown] = _UNKNOWN

    def run(self, unit: WorkUnit) -> None:
        """Encode a work unit into an intermediate shard, visible once complete.

        Raises TextError if all workers together have lost more than the limits allow. The unit is
        done by then, and not read again by a run with higher limits.
        """
        with_signatures = self._signer is not None
        writer = IntermediateWriter(self._folder, unit.key, self._dtype, with_signatures)
        try:
            for file_range in unit.file_ranges:
                self._encode_range(file_range, writer)
            self._ledger.record(unit.key, writer.report.losses)
            writer.finish()
        except BaseException:
            writer.abort()
            raise
        self._ledger.check_if_needed()

    def _encode_range(self, file_range: FileRange, writer: IntermediateWriter) -> None:
        batch: list[tuple[str, CleanText]] = []
        tokenized: list[tuple[str, np.ndarray]] = []
        size = reported = 0
        growth = expansion(file_range)  # for progress inside a large file
        account = RangeAccount(file_range)
        next_check = _CHECK_BYTES
        self._meter.reading(file_range.path)
        for document in read_range(file_range, self._settings):
            counts = writer.counts(document.language or "")
            counts.read += 1
            if document.written_language is not None:
                writer.report.count_written_language(document.written_language)
            clean = self._clean(document)
            if isinstance(clean, Rejected):
                counts.reject(clean.reason)
                account.reject(document, clean)
                if clean.detail is not None:
                    writer.report.damaged.append(clean.detail)
                if account.lost_size > next_check:
                    next_check += _CHECK_BYTES
                    partial = account.finish(complete=False).loss
                    self._ledger.check([*writer.report.losses, *([partial] if partial else [])])
                continue
            account.keep(document)
            assert document.language is not None, "documents without a language are rejected"
            if isinstance(clean, np.ndarray):
                tokenized.append((document.language, clean))
                size += clean.nbytes
            else:
                counts.cleaned += clean.changed
                batch.append((document.language, clean))
                size += len(clean.data)
            if size >= _BATCH_BYTES or len(batch) + len(tokenized) >= _BATCH_DOCUMENTS:
                self._flush(batch, tokenized, writer)
                step = min(size // growth, file_range.input_bytes - reported)
                self._meter.add(progress=step)
                reported += step
                batch, tokenized, size = [], [], 0
                self._group.check()
        self._flush(batch, tokenized, writer)
        writer.add_range(account.finish())
        self._meter.add(progress=file_range.input_bytes - reported)

    def _clean(self, document: Document) -> CleanText | np.ndarray | Rejected:
        if document.tokens is None:
            return self._cleaner.clean(document)
        if document.language is None:
            return Rejected(RejectReason.MISSING_LANGUAGE)
        return self._check_tokens(document.tokens)

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

    def _write_tokenized(
        self, batch: list[tuple[str, np.ndarray]], writer: IntermediateWriter
    ) -> None:
        """Write documents of already tokenized input."""
        languages: dict[str, list[np.ndarray]] = {}
        for language, tokens in batch:
            languages.setdefault(language, []).append(tokens)
        lengths = self._encoder.reference.byte_lengths
        for language, arrays in languages.items():
            sizes = [int(lengths[tokens].sum()) for tokens in arrays]
            data = [tokens.tobytes() for tokens in arrays]
            decode = self._encoder.reference.decode
            texts = [] if self._signer is None else [decode(tokens) for tokens in arrays]
            self._write(language, arrays, data, sizes, texts, writer)

    @staticmethod
    def strip_special_tokens(tokens: np.ndarray, special_ids: SpecialIds) -> np.ndarray:
        """Return the tokens without leading begin and trailing end tokens."""
        start, end = 0, len(tokens)
        while start < end and tokens[start] == special_ids.begin:
            start += 1
        while start < end and tokens[end - 1] == special_ids.end:
            end -= 1
        return tokens[start:end]

    def _check_tokens(self, tokens: np.ndarray) -> np.ndarray | Rejected:
        """Return the tokens without begin and end tokens, or the reason for rejection."""
        tokens = self.strip_special_tokens(tokens, self._encoder.reference.description.special_ids)
        if not len(tokens):
            return Rejected(RejectReason.EMPTY)
        if int(tokens.max()) >= len(self._kinds) or np.any(self._kinds[tokens] == _RESERVED):
            return Rejected(RejectReason.INVALID_TOKENS)
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
            sizes = [len(text) for text in data]
            plain = [text.text for text in texts]
            hashes = self._write(language, ids, data, sizes, plain, writer)
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
        texts: list[str],
        writer: IntermediateWriter,
    ) -> np.ndarray:
        """Write documents of one language; return the hashes of their `data`, uint64[n, 2].

        `texts` are needed for signatures only.
        """
        counts = writer.counts(language)
        hashes = content_hashes(data)
        documents = np.empty(len(arrays), dtype=DOCUMENT_DTYPE)
        documents["high"], documents["low"] = hashes[:, 0], hashes[:, 1]
        lengths = np.array([len(array) for array in arrays], dtype=np.int64)
        documents["bytes"] = sizes
        good = (lengths > 0) & (lengths <= _MAX_DOCUMENT_TOKENS)
        if not good.all():
            counts.reject(RejectReason.NO_TOKENS, int(np.count_nonzero(lengths == 0)))
            too_long = int(np.count_nonzero(lengths > _MAX_DOCUMENT_TOKENS))
            counts.reject(RejectReason.TOO_LONG, too_long)
            arrays = [array for array, kept in zip(arrays, good, strict=True) if kept]
        documents["tokens"] = np.where(good, lengths, 0)
        if arrays:
            tokens = np.concatenate(arrays)
            kinds = self._kinds.take(tokens)
            if np.any(kinds == _RESERVED):
                raise AssertionError(f"the tokenizer produced a reserved id from {language} text")
            counts.tokens += len(tokens)
            counts.byte_tokens += int(np.count_nonzero(kinds == _BYTE))
            counts.unknown_tokens += int(np.count_nonzero(kinds == _UNKNOWN))
            signatures = self._signer.sign(texts)[good] if self._signer is not None else None
            writer.add(language, tokens, documents[good], signatures)
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
