"""Shards of given texts in many languages, written at once: preprocessing takes longer."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mmbert.data.shards.indexed_dataset import IndexedDatasetWriter
from mmbert.data.shards.manifest import Manifest, Split, TrainSplit, write_manifest
from mmbert.data.shards.tokenizer_description import read_tokenizer_description
from mmbert.files import write_json
from mmbert_prep.tokenization.encoders import open_encoder
from mmbert_prep.tokenization.folder import write_sentencepiece_folder
from mmbert_prep.tokenization.training import train_bpe

SOURCE = "text"


def write_encoded_shards(
    root: Path, texts: Mapping[str, Sequence[str]], *, vocabulary_size: int = 2000
) -> None:
    """Write the texts of each language as training documents, and a summary."""
    root.mkdir(parents=True)
    sample = [text for given in itertools.islice(texts.values(), 20) for text in given]
    model = train_bpe(sample, vocabulary_size, threads=2)
    write_sentencepiece_folder(root / "tokenizer", model, [])
    encoder = open_encoder(root / "tokenizer")
    fingerprint = read_tokenizer_description(root / "tokenizer").fingerprint
    summaries = {}
    for number, (language, given) in enumerate(texts.items()):
        folder = root / SOURCE / language
        folder.mkdir(parents=True)
        with IndexedDatasetWriter(folder / "train-00000", np.uint16) as writer:
            for ids in encoder.encode(list(given)):
                writer.add(ids)
            shard = writer.finish()
        size = sum(len(text.encode()) for text in given)
        train = TrainSplit(
            documents=shard.documents, tokens=shard.tokens, bytes=size, shards=(shard,)
        )
        rejected = {"duplicate": number % 7, "too short": number % 3}
        manifest = Manifest(
            writer="test", source=SOURCE, language=language, tokenizer=fingerprint, dtype="uint16",
            train=train, heldout=Split(), documents_read=len(given) + sum(rejected.values()),
            rejected=rejected,
        )  # fmt: skip
        write_manifest(folder, manifest)
        share = number / len(texts)
        summaries[language] = {"byte_fallback_share": share, "tokens_per_word": 1 + share}
    write_json(root / SOURCE / "summary.json", {"languages": summaries})
