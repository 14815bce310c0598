"""Small shards with documents of given lengths, for the tests of data loading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mmbert.data.shards.continuation_index import (
    continuation_index,
    pieces_file_name,
    write_continuation_index,
)
from mmbert.data.shards.corpus import Corpus, open_corpus
from mmbert.data.shards.indexed_dataset import IndexedDatasetWriter, dtype_for_vocabulary
from mmbert.data.shards.manifest import Manifest, PiecesEntry, Split, TrainSplit, write_manifest
from mmbert.data.shards.tokenizer_description import (
    SpecialIds,
    TokenizerDescription,
    write_tokenizer_description,
)

FINGERPRINT = "f" * 64
SPECIALS = SpecialIds(pad=0, end=1, begin=2, unknown=3, mask=4)
FIRST_TEXT_ID = 5


def document_tokens(
    language_number: int, document: int, length: int, vocabulary_size: int
) -> np.ndarray:
    """Return ids that depend on language, document and position."""
    position = np.arange(length, dtype=np.int64)
    mixed = language_number * 7919 + document * 104_729 + position * 31
    return FIRST_TEXT_ID + mixed % (vocabulary_size - FIRST_TEXT_ID)


def write_language(
    root: Path,
    source: str,
    language: str,
    lengths: Sequence[int],
    *,
    contexts: Sequence[int],
    heldout: Sequence[int] = (),
    vocabulary_size: int = 1000,
    documents_per_shard: int = 1000,
    number: int = 0,
) -> Manifest:
    """Write the shards, indexes and manifest of a language."""
    folder = root / source / language
    folder.mkdir(parents=True)
    dtype = dtype_for_vocabulary(vocabulary_size)

    def write_split(name: str, sizes: Sequence[int], salt: int) -> Split:
        shards = []
        for first in range(0, len(sizes), documents_per_shard):
            with IndexedDatasetWriter(folder / f"{name}-{len(shards):05d}", dtype) as writer:
                for document in range(first, min(first + documents_per_shard, len(sizes))):
                    writer.add(
                        document_tokens(number, document + salt, sizes[document], vocabulary_size)
                    )
                shards.append(writer.finish())
        return Split(
            documents=len(sizes), tokens=sum(sizes), bytes=4 * sum(sizes), shards=tuple(shards)
        )

    train = write_split("train", lengths, 0)
    pieces = {}
    for context in contexts:
        index = continuation_index(np.asarray(lengths, dtype=np.int64), context)
        path = folder / pieces_file_name(context)
        checksum = write_continuation_index(path, index)
        pieces[context] = PiecesEntry(file=path.name, continuations=len(index), xxh3_128=checksum)
    manifest = Manifest(
        writer="test",
        source=source,
        language=language,
        tokenizer=FINGERPRINT,
        dtype="uint16" if dtype.itemsize == 2 else "int32",
        train=TrainSplit(**dict(train), pieces=pieces),
        heldout=write_split("heldout", heldout, 1_000_000),
        documents_read=len(lengths) + len(heldout),
        rejected={},
    )
    write_manifest(folder, manifest)
    return manifest


def write_corpus(
    root: Path,
    languages: Mapping[str, Mapping[str, Sequence[int]]],
    *,
    contexts: Sequence[int],
    heldout: Sequence[int] = (),
    vocabulary_size: int = 1000,
    documents_per_shard: int = 1000,
) -> Corpus:
    """Write {source: {language: document lengths}} and open it as a corpus."""
    tokenizer = root / "tokenizer"
    tokenizer.mkdir(parents=True)
    write_tokenizer_description(
        tokenizer,
        TokenizerDescription(
            kind="sentencepiece",
            vocabulary_size=vocabulary_size,
            fingerprint=FINGERPRINT,
            special_ids=SPECIALS,
        ),
    )
    number = 0
    for source, members in languages.items():
        for language, lengths in members.items():
            write_language(
                root,
                source,
                language,
                list(lengths),
                contexts=contexts,
                heldout=heldout,
                vocabulary_size=vocabulary_size,
                documents_per_shard=documents_per_shard,
                number=number,
            )
            number += 1
    return open_corpus(root)
