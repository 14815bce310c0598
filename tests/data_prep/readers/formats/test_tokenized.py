"""Tokenized input: tokens of Megatron pairs and MDS shards are unchanged."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import zstandard

from mmbert.data.shards.indexed_dataset import IndexedDataset, IndexedDatasetWriter
from mmbert.data.shards.manifest import read_manifest
from mmbert.errors import UserError
from mmbert_prep.tokenization.encoders import open_encoder
from tests.support.mds_shards import array, write_mds
from tests.support.texts import documents, run


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("in")
    for language in ("eng_Latn", "rus_Cyrl"):
        (folder / f"{language}.txt").write_text("\n\n".join(documents(language, 80)), "utf-8")
    output = tmp_path_factory.mktemp("out")
    run(folder, output, vocabulary_size=700)
    return output


def tokens_of(shards: Path, language: str, source: str = "text") -> list[list[int]]:
    folder = shards / source / language
    manifest = read_manifest(folder)
    return [
        dataset.document(number).tolist()
        for shard in (*manifest.train.shards, *manifest.heldout.shards)
        for dataset in [IndexedDataset(folder / shard.name)]
        for number in range(len(dataset))
    ]


def test_megatron_pairs(shards: Path, tmp_path: Path) -> None:
    model = shards / "tokenizer" / "tokenizer.model"
    run(shards / "text", tmp_path, tokenizer=model, vocabulary_size=None, unit_bytes=1000)
    for language in ("eng_Latn", "rus_Cyrl"):
        found = tokens_of(tmp_path, language)
        assert sorted(found) == sorted(tokens_of(shards, language))
        before = read_manifest(shards / "text" / language)
        after = read_manifest(tmp_path / "text" / language)
        size = before.train.bytes + before.heldout.bytes
        assert after.train.bytes + after.heldout.bytes == size


@pytest.mark.parametrize("form", ["ndarray:uint32", "ndarray", "bytes"])
@pytest.mark.parametrize("compression", ["", ".zstd", ".gz"])
def test_mds_shards(form: str, compression: str, shards: Path, tmp_path: Path) -> None:
    texts = tokens_of(shards, "eng_Latn")
    folder = tmp_path / "in" / "eng_Latn"
    folder.mkdir(parents=True)
    samples = []
    for number, tokens in enumerate(texts):
        ids = np.array([2, *tokens, 1], dtype="<u4")
        encoded = ids.astype("<i8").tobytes() if form == "bytes" else array(ids, ":" in form)
        samples.append({"id": str(number).encode(), "input_ids": encoded})
    path = folder / "shard.00000.mds"
    data = write_mds(path, samples, {"id": "str", "input_ids": form})
    if compression:
        path.unlink()
        pack = zstandard.compress if compression == ".zstd" else gzip.compress
        path.with_name(path.name + compression).write_bytes(pack(data))
    (folder / "index.json").write_text(json.dumps({"version": 2, "shards": []}))
    model = shards / "tokenizer" / "tokenizer.model"
    summary = run(tmp_path / "in", tmp_path / "out", tokenizer=model, vocabulary_size=None)
    assert sorted(tokens_of(tmp_path / "out", "eng_Latn")) == sorted(texts)
    assert summary.ignored_files == {"beside MDS shards": ["eng_Latn/index.json"]}
    assert summary.rejected() == {}


def test_mds_shards_of_text(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    texts = documents("swh_Latn", 60)
    samples = [{"text": t.encode(), "language": b"swh", "language_script": b"Latn"} for t in texts]
    kinds = {"text": "str", "language": "str", "language_script": "str"}
    write_mds(tmp_path / "in" / "shard.00000.mds", samples, kinds)
    run(tmp_path / "in", tmp_path / "out", vocabulary_size=400)
    encoder = open_encoder(tmp_path / "out" / "tokenizer")
    found = [encoder.decode(ids) for ids in tokens_of(tmp_path / "out", "swh_Latn")]
    assert sorted(found) == sorted(texts)


def test_tokens_that_cannot_be_are_rejected(shards: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in" / "eng_Latn"
    folder.mkdir(parents=True)
    lists = [[300, 301], [2, 302, 1], [300, 4, 301], [700], [2, 1], [303] * 9]
    samples = [{"input_ids": np.array(ids, "<i8").tobytes()} for ids in lists]
    write_mds(folder / "a.mds", samples, {"input_ids": "bytes"})
    model = shards / "tokenizer" / "tokenizer.model"
    changes = {"tokenizer": model, "vocabulary_size": None}
    changes |= {"maximum_unread_fraction": 1, "maximum_rejected_fraction": 1}
    summary = run(tmp_path / "in", tmp_path / "out", **changes)
    assert summary.languages["eng_Latn"].rejected == {"empty": 1, "invalid_tokens": 2}
    assert sorted(tokens_of(tmp_path / "out", "eng_Latn")) == [[300, 301], [302], [303] * 9]


def test_tokenized_input_needs_its_tokenizer(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tokenized input needs the --tokenizer"):
        run(shards / "text", tmp_path)


@pytest.mark.parametrize("suffix", ["mds", "idx"])
def test_damaged_shards_are_named(suffix: str, shards: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in" / "eng_Latn"
    folder.mkdir(parents=True)
    samples = [{"input_ids": np.array([300 + n] * 50, "<i8").tobytes()} for n in range(100)]
    path = folder / f"a.{suffix}"
    if suffix == "mds":
        write_mds(path, samples, {"input_ids": "bytes"})
    else:
        with IndexedDatasetWriter(folder / "a", np.uint16) as writer:
            for n in range(100):
                writer.add([300 + n] * 50)
            writer.finish()
    path.write_bytes(path.read_bytes()[:-600])
    (folder / "b.txt").write_text("\n\n".join(documents("eng_Latn", 30)))
    model = shards / "tokenizer" / "tokenizer.model"
    changes = {"tokenizer": model, "vocabulary_size": None, "maximum_unread_fraction": 1}
    summary = run(tmp_path / "in", tmp_path / "out", **changes)
    assert summary.languages["eng_Latn"].rejected == {"damaged_file": 1}
    # Of 100 MDS samples, the last two cannot be read; of a pair without its index, none.
    unread = 2 * 404 if suffix == "mds" else (folder / "a.bin").stat().st_size
    assert summary.unread_bytes == {"eng_Latn": unread}
    assert f"a.{suffix}" in summary.damaged_files[0]
    kept = len(tokens_of(tmp_path / "out", "eng_Latn"))
    assert kept == (30 + 98 if suffix == "mds" else 30)
