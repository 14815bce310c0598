"""Verification of shards: correct, missing, foreign and damaged documents."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmbert.cli import app
from mmbert.data.shards.indexed_dataset import IndexedDataset, IndexedDatasetWriter
from mmbert.data.shards.manifest import read_manifest, verify_files, write_manifest
from mmbert.errors import UserError
from mmbert_prep.shards.verify import verify_source
from tests.support.texts import documents, run, tree, write_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    odd = ["literal \u2581 sign", "a <mask> and <eos>", "copy", "copy", "\x07bell", "\xad"]
    (folder / "qod_Latn.txt").write_text("\n\n".join([*documents("qod_Latn", 40), *odd]))
    return folder


@pytest.fixture
def shards(corpus: Path, made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "shards"))


@pytest.fixture(scope="module")
def made(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("made")
    run(corpus, output)
    return output


def faults(shards: Path, corpus: Path) -> dict[str, list[str]]:
    found = verify_source(shards / "text", str(corpus))
    return {language: check.errors for language, check in found.items() if check.errors}


def test_sound_shards(corpus: Path, shards: Path) -> None:
    seen: list[int] = []
    found = verify_source(shards / "text", str(corpus), seen.append)
    assert {language: check.errors for language, check in found.items()} == {
        key: [] for key in found
    }
    assert found["eng_Latn"].documents == 120
    assert sum(seen) > 10_000


def test_a_changed_source_is_noticed(corpus: Path, shards: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(corpus, tmp_path / "other"))
    lines = (other / "yor_Latn.txt").read_text().split("\n\n")
    (other / "yor_Latn.txt").write_text("\n\n".join([*lines[1:], "a new document"]))
    (other / "zul_Latn.txt").write_text("a new language")
    found = faults(shards, other)
    assert set(found) == {"yor_Latn", "zul_Latn"}
    assert any("not in the source" in text for text in found["yor_Latn"])
    assert any(
        "1 documents of the source are missing from the shards" in text
        for text in found["yor_Latn"]
    )


def test_damage_is_noticed(corpus: Path, shards: Path) -> None:
    path = shards / "text" / "rus_Cyrl" / "train-00000.bin"
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    assert "is corrupted" in faults(shards, corpus)["rus_Cyrl"][0]


def test_a_document_in_the_wrong_split_is_noticed(corpus: Path, shards: Path) -> None:
    folder = shards / "text" / "eng_Latn"
    manifest = read_manifest(folder)
    train = [IndexedDataset(folder / "train-00000").document(n).copy() for n in range(50)]
    with IndexedDatasetWriter(folder / "heldout-00000", manifest.dtype) as writer:
        for tokens in train[:3]:
            writer.add(tokens)
        shard = writer.finish()
    heldout = manifest.heldout.model_copy(
        update={"shards": (shard,), "documents": shard.documents, "tokens": shard.tokens}
    )
    write_manifest(folder, manifest.model_copy(update={"heldout": heldout}))
    errors = faults(shards, corpus)["eng_Latn"]
    assert any("wrong split" in text for text in errors)
    assert any("stored 2 times" in text for text in errors)


def test_unfinished_shards_are_refused(corpus: Path, shards: Path) -> None:
    (shards / "text" / "summary.json").unlink()
    with pytest.raises(UserError, match="never finished"):
        verify_source(shards / "text", str(corpus))


def test_the_command_names_what_differs(corpus: Path, shards: Path, tmp_path: Path) -> None:
    """`mmbert inspect SHARDS --verify --input TEXT`."""

    def inspect(text: Path) -> str:
        arguments = ["inspect", str(shards), "--verify", "--input", str(text)]
        result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
        return result.output if result.exception is None else f"{result.exception}"

    assert "documents in 7 languages decode to those of" in inspect(corpus)
    other = Path(shutil.copytree(corpus, tmp_path / "other"))
    (other / "yor_Latn.txt").write_text("a new document")
    assert f"1 languages differ from {other}: yor_Latn" in inspect(other)
    shutil.copytree(shards / "text", shards / "more")
    assert "has 2 finished sources" in inspect(corpus)


def test_the_remedy_of_damage_remakes_the_source(corpus: Path, shards: Path) -> None:
    folder = shards / "text" / "eng_Latn"
    sound = tree(folder)
    (folder / "train-00000.bin").write_bytes(b"damaged")
    with pytest.raises(
        UserError, match=r"train-00000.bin .*\n.*remove (.*summary.json) and"
    ) as error:
        verify_files(folder, read_manifest(folder))
    removed = re.search(r"remove (\S+)", error.value.remedy)
    assert removed is not None
    Path(removed[1]).unlink()
    run(corpus, shards)
    assert tree(folder) == sound
