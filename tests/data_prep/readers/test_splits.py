"""Held-out splits of published datasets are left out, named, and read where they are the input."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmbert_prep.readers.discovery import discover
from tests.support.texts import settings


def found(folder: Path, pattern: str = "") -> tuple[list[str], dict[str, list[str]]]:
    """Return the files that are read, and those of splits that are not."""
    text = f"{folder}/{pattern}" if pattern else folder
    result = discover(settings(text, folder / "out", language="eng_Latn"))
    files = [str(Path(file.path).relative_to(folder)) for file in result.files]
    return files, {
        reason.split("'")[1]: names
        for reason, names in result.ignored.items()
        if reason.startswith("split ")
    }


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('{"text": "a"}\n')


@pytest.mark.parametrize(
    ("train", "held_out", "word"),
    [
        ("data/train-00000-of-00002.jsonl", "data/test-00000-of-00001.jsonl", "test"),
        ("swh_Latn/train/000.jsonl", "swh_Latn/test/000_00000.jsonl", "test"),
        ("train.jsonl", "validation.jsonl", "validation"),
        ("train_12.jsonl", "test.jsonl", "test"),
        ("w-train-00000-of-00002.jsonl", "w-test.jsonl", "test"),
        ("en.train.jsonl.gz", "en.dev.jsonl.gz", "dev"),
        ("wiki-train.jsonl", "wiki-val.jsonl", "val"),
        ("Train/a.jsonl", "Valid/b.jsonl", "Valid"),
        ("training/a.jsonl", "evaluation/a/b/c.jsonl", "evaluation"),
        ("deu_Latn_train-sampled/a.jsonl", "deu_Latn_test-sampled/a.jsonl", "test"),
    ],
)
def test_splits_beside_train(train: str, held_out: str, word: str, tmp_path: Path) -> None:
    write(tmp_path, train, held_out)
    assert found(tmp_path) == ([train], {word: [held_out]})
    write(tmp_path, "other/a.jsonl")
    assert found(tmp_path)[1] == {word: [held_out]}


@pytest.mark.parametrize(
    "names",
    [
        ["test/a.jsonl", "other/a.jsonl"],
        ["train-1.jsonl", "contest-1.jsonl", "latest.jsonl", "devanagari.jsonl"],
        ["a/train.jsonl", "b/test.jsonl"],
        ["eval.jsonl", "web-train.jsonl"],
    ],
)
def test_names_that_are_no_splits(names: list[str], tmp_path: Path) -> None:
    write(tmp_path, *names)
    assert found(tmp_path) == (sorted(names), {})


def test_a_split_that_is_the_input_is_read(tmp_path: Path) -> None:
    write(tmp_path, "data/train-0.jsonl", "data/test-0.jsonl", "l/test/a.jsonl", "l/train/a.jsonl")
    assert found(tmp_path, "data/test-*")[0] == ["data/test-0.jsonl"]
    assert found(tmp_path, "data/test-0.jsonl")[0] == ["data/test-0.jsonl"]
    assert found(tmp_path, "*/test")[0] == ["l/test/a.jsonl"]
    assert found(tmp_path, "l/test")[0] == ["l/test/a.jsonl"]


def test_files_that_are_not_read_have_a_remedy(tmp_path: Path) -> None:
    write(
        tmp_path, "a.jsonl", "a.pdf", "b.tar.gz", "c.ZIP", "wiki.xml.bz2", "d.parquet.xz", "e.odd"
    )
    ignored = discover(settings(tmp_path, tmp_path / "out", language="eng_Latn")).ignored
    assert ignored == {
        "unknown kind of file '.pdf' (extract its text into .txt or .jsonl)": ["a.pdf"],
        "unknown kind of file '.tar' (unpack it)": ["b.tar.gz"],
        "unknown kind of file '.ZIP' (unpack it)": ["c.ZIP"],
        "unknown kind of file '.xml' (extract its text into .jsonl: wikiextractor reads dumps of "
        "wikis)": ["wiki.xml.bz2"],
        "unknown kind of file '.parquet' (decompress it)": ["d.parquet.xz"],
        "unknown kind of file '.odd'": ["e.odd"],
    }
