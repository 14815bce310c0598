"""From parts to shards: write each language's Megatron pairs, piece indexes and manifest."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np

import mmbert
from mmbert.data.shards.continuation_index import (
    continuation_index,
    pieces_file_name,
    write_continuation_index,
)
from mmbert.data.shards.indexed_dataset import (
    IndexedDataset,
    IndexedDatasetWriter,
    dtype_for_vocabulary,
)
from mmbert.data.shards.manifest import (
    MANIFEST_NAME,
    Manifest,
    PiecesEntry,
    Shard,
    Split,
    TrainSplit,
    read_manifest,
    write_manifest,
)
from mmbert.data.shards.tokenizer_description import TokenizerDescription
from mmbert.files import atomic_write, explained_write_errors, make_folder, sync_folder
from mmbert_prep.executor.progress import Meter
from mmbert_prep.shards.intermediate import map_section
from mmbert_prep.shards.selection import DocumentStatus, LanguageSections, Selection, ShardPlan

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
    """Copy a shard's documents out of the parts; returns its manifest entry."""
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
                    meter.add(weight=stop - start)
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
    """Append the kept ones of the documents from `start`: run by run of neighbours."""
    edges = np.flatnonzero(np.diff(kept.astype(np.int8), prepend=0, append=0)) + start
    for begin, end in edges.reshape(-1, 2):
        first_token = int(ends[begin] - lengths[begin])
        writer.add_many(tokens[first_token : int(ends[end - 1])], lengths[begin:end])


def finish_language(
    language: str,
    source: str,
    folder: Path,
    target: Path,
    commit_marker: Path,
    shards: list[Shard],
    totals: dict[str, tuple[int, int, int]],
    read: int,
    rejected: dict[str, int],
    tokenizer: TokenizerDescription,
    contexts: tuple[int, ...],
) -> Manifest:
    """Write piece indexes and manifest in `folder`, then make the language visible at `target`.

    `receipt`, a copy of the manifest, tells a later run that this one made what is at `target`.
    """
    train = [shard for shard in shards if shard.name.startswith("train")]
    heldout = [shard for shard in shards if shard.name.startswith("heldout")]
    pieces: dict[int, PiecesEntry] = {}
    for context in sorted(set(contexts)):
        indexes = []
        first_document = 0
        for shard in train:
            lengths = IndexedDataset(folder / shard.name).lengths
            indexes.append(continuation_index(lengths, context, first_document))
            first_document += shard.documents
        index = np.concatenate(indexes) if indexes else continuation_index([], context)
        name = pieces_file_name(context)
        checksum = write_continuation_index(folder / name, index)
        pieces[context] = PiecesEntry(file=name, continuations=len(index), xxh3_128=checksum)
    two_bytes = dtype_for_vocabulary(tokenizer.vocabulary_size).itemsize == 2
    manifest = Manifest(
        writer=f"mmbert {mmbert.__version__}",
        source=source,
        language=language,
        tokenizer=tokenizer.fingerprint,
        dtype="uint16" if two_bytes else "int32",
        train=TrainSplit(
            documents=totals["train"][0],
            tokens=totals["train"][1],
            bytes=totals["train"][2],
            shards=tuple(train),
            pieces=pieces,
        ),
        heldout=Split(
            documents=totals["heldout"][0],
            tokens=totals["heldout"][1],
            bytes=totals["heldout"][2],
            shards=tuple(heldout),
        ),
        documents_read=read,
        rejected=dict(sorted(rejected.items())),
    )
    write_manifest(folder, manifest)
    with atomic_write(commit_marker) as file:
        file.write((folder / MANIFEST_NAME).read_bytes())
    publish(folder, target)
    return manifest


def publish(folder: Path, target: Path) -> None:
    """Move a complete language folder to its place, in the place of an older one."""
    with explained_write_errors(target):
        make_folder(target.parent)
        old = folder.with_name(f"{folder.name}.replaced")
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(target, old)
        os.replace(folder, target)
        for changed in (target.parent, folder.parent):  # before anything of the old one goes
            sync_folder(changed)
        shutil.rmtree(old, ignore_errors=True)


def published_manifest(target: Path, commit_marker: Path) -> Manifest | None:
    """The manifest of a language that this run has made visible already."""
    if not commit_marker.exists() or not (target / MANIFEST_NAME).exists():
        return None
    if commit_marker.read_bytes() != (target / MANIFEST_NAME).read_bytes():
        return None
    return read_manifest(target)
