"""Corpora for the data benchmarks: random tokens, or manifests without shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmbert.data.shards.continuation_index import (
    continuation_index,
    pieces_file_name,
    write_continuation_index,
)
from mmbert.data.shards.corpus import Corpus, open_corpus
from mmbert.data.shards.indexed_dataset import IndexedDatasetWriter
from mmbert.data.shards.manifest import (
    FileEntry,
    Manifest,
    PiecesEntry,
    Shard,
    ShardFiles,
    Split,
    TrainSplit,
    write_manifest,
)
from mmbert.data.shards.tokenizer_description import (
    SpecialIds,
    TokenizerDescription,
    write_tokenizer_description,
)

VOCABULARY = 256_000
FINGERPRINT = "b" * 64


def write_tokenizer(root: Path) -> None:
    """Write the description of a tokenizer to `root`/tokenizer."""
    folder = root / "tokenizer"
    folder.mkdir(parents=True)
    write_tokenizer_description(
        folder,
        TokenizerDescription(
            kind="sentencepiece",
            vocabulary_size=VOCABULARY,
            fingerprint=FINGERPRINT,
            special_ids=SpecialIds(pad=0, end=1, begin=2, unknown=3, mask=4),
        ),
    )


def manifest_of(language: str, train: TrainSplit, source: str = "web") -> Manifest:
    """Return the manifest of a language without held-out documents."""
    return Manifest(
        writer="benchmark",
        source=source,
        language=language,
        tokenizer=FINGERPRINT,
        dtype="int32",
        train=train,
        heldout=Split(),
        documents_read=train.documents,
        rejected={},
    )


def real_corpus(
    root: Path, *, tokens: int, mean_length: int, languages: int, context: int
) -> Corpus:
    """Write languages of sizes ~ 1 / rank, with log-normal document lengths."""
    write_tokenizer(root)
    random = np.random.default_rng(0)
    weights = 1 / np.arange(1, languages + 1)
    for number, share in enumerate(weights / weights.sum()):
        language = f"l{number:03d}_Latn"
        folder = root / "web" / language
        folder.mkdir(parents=True)
        count = max(4, round(tokens * share / mean_length))
        lengths = np.maximum(1, random.lognormal(np.log(mean_length) - 0.5, 1.0, count)).astype(
            np.int64
        )
        with IndexedDatasetWriter(folder / "train-00000", np.int32) as writer:
            total = int(lengths.sum())
            writer.add_many(random.integers(5, VOCABULARY, total, dtype=np.int32), lengths)
            shard = writer.finish()
        index = continuation_index(lengths, context)
        name = pieces_file_name(context)
        checksum = write_continuation_index(folder / name, index)
        entry = PiecesEntry(file=name, continuations=len(index), xxh3_128=checksum)
        write_manifest(
            folder,
            manifest_of(
                language,
                TrainSplit(
                    documents=count,
                    tokens=total,
                    bytes=4 * total,
                    shards=(shard,),
                    pieces={context: entry},
                ),
            ),
        )
    return open_corpus(root)


def simulated_manifests(
    root: Path, *, languages: int, documents: int, tokens: int, context: int
) -> None:
    """Write only the manifests of a large corpus, with shards of a million documents."""
    write_tokenizer(root)
    weights = np.exp(-np.arange(languages) / (languages / 12))
    nothing = "0" * 32
    for number, share in enumerate(weights / weights.sum()):
        language = f"l{number:04d}_Latn"
        folder = root / "web" / language
        folder.mkdir(parents=True)
        own_documents = max(5, int(documents * share))
        mean = tokens // documents
        shards = []
        for first in range(0, own_documents, 1_000_000):
            count = min(1_000_000, own_documents - first)
            shards.append(
                Shard(
                    name=f"train-{len(shards):05d}",
                    documents=count,
                    tokens=count * mean,
                    files=ShardFiles(
                        bin=FileEntry(bytes=4 * count * mean, xxh3_128=nothing),
                        idx=FileEntry(bytes=42 + 20 * count, xxh3_128=nothing),
                    ),
                )
            )
        entry = PiecesEntry(
            file=pieces_file_name(context), continuations=own_documents // 50, xxh3_128=nothing
        )
        write_manifest(
            folder,
            manifest_of(
                language,
                TrainSplit(
                    documents=own_documents,
                    tokens=own_documents * mean,
                    bytes=4 * own_documents * mean,
                    shards=tuple(shards),
                    pieces={context: entry},
                ),
            ),
        )
