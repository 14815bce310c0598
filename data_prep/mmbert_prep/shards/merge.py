"""Final shards of a language: Megatron pairs, continuation indexes and manifest."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import mmbert
from mmbert.data.shards.continuation_index import (
    continuation_index,
    count_parts,
    pieces_file_name,
    write_continuation_indexes,
)
from mmbert.data.shards.indexed_dataset import (
    IndexedDataset,
    IndexedDatasetWriter,
    dtype_for_vocabulary,
)
from mmbert.data.shards.manifest import (
    MANIFEST_NAME,
    Manifest,
    NearDuplicates,
    PiecesEntry,
    Shard,
    Split,
    TrainSplit,
    write_manifest,
)
from mmbert.data.shards.tokenizer_description import TokenizerDescription
from mmbert.files import atomic_write, explained_write_errors, make_folder, sync_folder
from mmbert_prep.executor.progress import Meter
from mmbert_prep.executor.workspace import LanguagePaths
from mmbert_prep.readers import RejectReason
from mmbert_prep.shards.deduplicate_and_split import (
    DocumentStatus,
    LanguageSections,
    Selection,
    ShardPlan,
)
from mmbert_prep.shards.intermediate import map_section

_DOCUMENTS_PER_COPY = 65_536


def write_shard(
    language: LanguageSections,
    selection: Selection,
    shard: ShardPlan,
    units: Path,
    folder: Path,
    vocabulary_size: int,
    meter: Meter,
) -> Shard:
    """Copy the documents of a shard from intermediate shards; return its manifest entry."""
    dtype = dtype_for_vocabulary(vocabulary_size)
    status = DocumentStatus.HELDOUT if shard.name.startswith("heldout") else DocumentStatus.TRAIN
    first = 0
    with IndexedDatasetWriter(folder / shard.name, dtype) as writer:
        for key, section in language.sections:
            begin, end = max(shard.first, first), min(shard.last, first + section.documents)
            if begin < end:
                tokens, documents = map_section(units, key, section, dtype)
                lengths = np.asarray(documents["tokens"]).astype(np.int64)
                ends = np.cumsum(lengths)
                for start in range(begin - first, end - first, _DOCUMENTS_PER_COPY):
                    stop = min(start + _DOCUMENTS_PER_COPY, end - first)
                    kept = selection.statuses[first + start : first + stop] == status
                    _copy(writer, tokens, lengths, ends, start, kept)
                    meter.add(progress=stop - start)
            first += section.documents
        return writer.finish()


def _copy(
    writer: IndexedDatasetWriter,
    tokens: np.ndarray,
    lengths: np.ndarray,
    ends: np.ndarray,
    start: int,
    kept: np.ndarray,
) -> None:
    """Append the kept documents from `start` on, one call per run of consecutive documents."""
    edges = np.flatnonzero(np.diff(kept.astype(np.int8), prepend=0, append=0)) + start
    for begin, end in edges.reshape(-1, 2):
        first_token = int(ends[begin] - lengths[begin])
        writer.add_many(tokens[first_token : int(ends[end - 1])], lengths[begin:end])


@dataclass(frozen=True)
class StagedLanguage:
    """Language with written shards, before publication."""

    source: str
    language: str
    paths: LanguagePaths
    shards: list[Shard]
    totals: dict[str, tuple[int, int, int]]
    """Split -> documents, tokens, bytes."""
    documents_read: int
    rejected: dict[RejectReason, int]
    unread_bytes: int
    duplicates_of: dict[str, int]
    near_duplicates: NearDuplicates | None = None

    def shards_of(self, split: str) -> list[Shard]:
        """Return the shards of a split."""
        return [shard for shard in self.shards if shard.name.startswith(split)]


def finish_language(
    staged: StagedLanguage, tokenizer: TokenizerDescription, contexts: tuple[int, ...]
) -> None:
    """Write the continuation indexes and the manifest of a language, then publish it."""
    folder = staged.paths.staging
    manifest = _manifest(staged, tokenizer, _write_indexes(staged, contexts))
    write_manifest(folder, manifest)
    with atomic_write(staged.paths.commit_marker) as file:
        file.write((folder / MANIFEST_NAME).read_bytes())
    publish(folder, staged.paths.target)


def _write_indexes(staged: StagedLanguage, contexts: tuple[int, ...]) -> dict[int, PiecesEntry]:
    folder = staged.paths.staging
    pieces: dict[int, PiecesEntry] = {}
    for context in sorted(set(contexts)):
        entries = sum(
            int((count_parts(lengths, context) - 1).sum()) for _, lengths in _lengths(staged)
        )
        indexes = (
            continuation_index(lengths, context, first_document)
            for first_document, lengths in _lengths(staged)
        )
        name = pieces_file_name(context)
        checksum = write_continuation_indexes(folder / name, entries, indexes)
        pieces[context] = PiecesEntry(file=name, continuations=entries, xxh3_128=checksum)
    return pieces


def _lengths(staged: StagedLanguage) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the number of the first document of each training shard, and its lengths."""
    first_document = 0
    for shard in staged.shards_of("train"):
        yield first_document, IndexedDataset(staged.paths.staging / shard.name).lengths
        first_document += shard.documents


def _manifest(
    staged: StagedLanguage, tokenizer: TokenizerDescription, pieces: dict[int, PiecesEntry]
) -> Manifest:
    documents, tokens, size = staged.totals["train"]
    heldout_documents, heldout_tokens, heldout_size = staged.totals["heldout"]
    two_bytes = dtype_for_vocabulary(tokenizer.vocabulary_size).itemsize == 2
    return Manifest(
        writer=f"mmbert {mmbert.__version__}",
        source=staged.source,
        language=staged.language,
        tokenizer=tokenizer.fingerprint,
        dtype="uint16" if two_bytes else "int32",
        train=TrainSplit(
            documents=documents,
            tokens=tokens,
            bytes=size,
            shards=tuple(staged.shards_of("train")),
            pieces=pieces,
        ),
        heldout=Split(
            documents=heldout_documents,
            tokens=heldout_tokens,
            bytes=heldout_size,
            shards=tuple(staged.shards_of("heldout")),
        ),
        documents_read=staged.documents_read,
        rejected={reason.value: count for reason, count in sorted(staged.rejected.items())},
        unread_bytes=staged.unread_bytes,
        duplicates_of=staged.duplicates_of,
        near_duplicates=staged.near_duplicates,
    )


def publish(folder: Path, target: Path) -> None:
    """Move the complete folder of a language to `target`, replacing an older one."""
    with explained_write_errors(target):
        make_folder(target.parent)
        old = folder.with_name(f"{folder.name}.replaced")
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(target, old)
        os.replace(folder, target)
        for changed in (target.parent, folder.parent):  # before the old folder is deleted
            sync_folder(changed)
        shutil.rmtree(old, ignore_errors=True)


def is_published(paths: LanguagePaths) -> bool:
    """Return whether this run has already published the language."""
    manifest = paths.target / MANIFEST_NAME
    if not paths.commit_marker.exists() or not manifest.exists():
        return False
    return paths.commit_marker.read_bytes() == manifest.read_bytes()
