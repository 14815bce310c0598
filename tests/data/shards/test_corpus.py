"""Manifests and corpora: visible languages, rejected files and the files named in messages."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbert.data.shards.corpus import open_corpus
from mmbert.data.shards.manifest import (
    TrainSplit,
    parse_manifest,
    read_manifest,
    verify_files,
    write_manifest,
)
from mmbert.errors import UserError
from tests.support.corpora import document_tokens, write_corpus


def test_corpus_reads_what_was_written(tmp_path: Path) -> None:
    lengths = [5, 40, 7]
    corpus = write_corpus(
        tmp_path,
        {"web": {"deu_Latn": lengths, "aai_Latn": [3]}},
        contexts=[12],
        heldout=[6],
        documents_per_shard=2,
    )
    assert [component.name for component in corpus.components] == ["web/aai_Latn", "web/deu_Latn"]
    german = corpus.component("web", "deu_Latn")
    again = pickle.loads(pickle.dumps(corpus))
    for number, length in enumerate(lengths):
        expected = document_tokens(0, number, length, 1000)
        np.testing.assert_array_equal(corpus.document(german, "train", number), expected)
        np.testing.assert_array_equal(again.document(german, "train", number), expected)
    np.testing.assert_array_equal(
        corpus.document(german, "heldout", 0), document_tokens(0, 1_000_000, 6, 1000)
    )
    with pytest.raises(IndexError):
        corpus.document(german, "train", 3)
    assert german.continuations(12) == 3
    assert corpus.continuation_index(german, 12)["part"].tolist() == [1, 2, 3]
    with pytest.raises(UserError, match="no piece index for context 13"):
        german.continuations(13)


def test_unfinished_language_is_not_seen(tmp_path: Path) -> None:
    write_corpus(tmp_path, {"web": {"deu_Latn": [3], "fra_Latn": [3]}}, contexts=[12])
    (tmp_path / "web/fra_Latn/manifest.json").unlink()
    assert [c.language for c in open_corpus(tmp_path).components] == ["deu_Latn"]
    (tmp_path / "web/deu_Latn/manifest.json").unlink()
    with pytest.raises(UserError, match="no finished language"):
        open_corpus(tmp_path)


def test_second_tokenizer_is_refused(tmp_path: Path) -> None:
    write_corpus(tmp_path, {"web": {"deu_Latn": [3]}}, contexts=[12])
    folder = tmp_path / "web/deu_Latn"
    manifest = read_manifest(folder)
    write_manifest(folder, manifest.model_copy(update={"tokenizer": "0" * 64}))
    with pytest.raises(UserError, match=r"deu_Latn/manifest\.json.*tokenizer"):
        open_corpus(tmp_path)


def test_only_finished_languages_are_seen(tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    write_corpus(
        shards,
        {"web": {"deu_Latn": [3], "fra_Latn": [3]}, "books": {"deu_Latn": [3]}},
        contexts=[12],
    )
    (shards / "web/fra_Latn/manifest.json").rename(shards / "web/fra_Latn/other.json")
    (shards / "web/summary.json").write_text("{}")
    (shards / ".preprocess/web").mkdir(parents=True)
    (shards / ".preprocess/web/manifest.json").write_text("{}")
    (shards / "books").rename(tmp_path / "elsewhere")  # on another disk, say
    (shards / "books").symlink_to(tmp_path / "elsewhere")
    names = [component.name for component in open_corpus(shards).components]
    assert names == ["books/deu_Latn", "web/deu_Latn"]


def test_moved_folder_is_refused(tmp_path: Path) -> None:
    write_corpus(tmp_path, {"web": {"deu_Latn": [3]}}, contexts=[12])
    (tmp_path / "web/deu_Latn").rename(tmp_path / "web/fra_Latn")
    with pytest.raises(UserError, match="describes web/deu_Latn"):
        open_corpus(tmp_path)


@pytest.mark.parametrize("name", ["train-00000.bin", "train-00000.idx", "pieces-12.npy"])
def test_damage_is_found_by_its_checksum(tmp_path: Path, name: str) -> None:
    write_corpus(tmp_path, {"web": {"deu_Latn": [30, 4]}}, contexts=[12])
    folder = tmp_path / "web/deu_Latn"
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name} is corrupted"):
        verify_files(folder, manifest)
    (folder / name).unlink()
    with pytest.raises(UserError, match=rf"{name} is listed in the manifest but missing"):
        verify_files(folder, manifest)


def test_replaced_shard_is_refused_when_read(tmp_path: Path) -> None:
    corpus = write_corpus(
        tmp_path, {"web": {"deu_Latn": [3, 3], "fra_Latn": [3, 4]}}, contexts=[12]
    )
    for suffix in ("bin", "idx"):
        content = (tmp_path / f"web/fra_Latn/train-00000.{suffix}").read_bytes()
        (tmp_path / f"web/deu_Latn/train-00000.{suffix}").write_bytes(content)
    with pytest.raises(UserError, match=r"deu_Latn/train-00000\.bin/\.idx does not match"):
        corpus.document(corpus.component("web", "deu_Latn"), "train", 0)


@given(st.data())
@settings(deadline=None)
def test_mutated_manifest_is_named_or_means_the_same_kind_of_thing(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, {"web": {"deu_Latn": [30, 4]}}, contexts=[12], heldout=[5])
    path = folder / "web/deu_Latn/manifest.json"
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    kind = data.draw(st.sampled_from(["flip", "cut", "drop"]))
    if kind == "flip":
        content[place] = data.draw(st.integers(0, 255))
    elif kind == "cut":
        del content[place:]
    else:
        del content[place : place + data.draw(st.integers(1, 8))]
    try:
        train = parse_manifest(bytes(content), path).train
    except UserError as error:
        message = error.message
    else:
        message = str(path)
        _check_sums(train)
    assert str(path) in message


def _check_sums(train: TrainSplit) -> None:
    assert train.tokens == sum(shard.tokens for shard in train.shards)
    assert train.documents == sum(shard.documents for shard in train.shards)


def test_manifest_errors_name_the_key(tmp_path: Path) -> None:
    write_corpus(tmp_path, {"web": {"deu_Latn": [3]}}, contexts=[12])
    path = tmp_path / "web/deu_Latn/manifest.json"
    for change, expected in (
        ({"documents": -1}, "train.documents"),
        ({"tokens": 4}, "the shards sum to 3"),
        ({"unknown": 4}, "train.unknown"),
    ):
        values = json.loads(path.read_text())
        values["train"].update(change)
        with pytest.raises(UserError, match=expected):
            parse_manifest(json.dumps(values).encode(), path)
    values = json.loads(path.read_text())
    values["train"]["shards"][0]["name"] = "../../etc/passwd"
    with pytest.raises(UserError, match="name"):
        parse_manifest(json.dumps(values).encode(), path)
