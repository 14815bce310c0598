"""Near-duplicates together with several sources in one call: each is searched by itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mmbert.data.shards.indexed_dataset import IndexedDataset
from mmbert.data.shards.manifest import read_manifest
from mmbert_prep.executor.workers import SingleProcess
from mmbert_prep.pipeline import preprocess_sources
from mmbert_prep.readers import RejectReason
from mmbert_prep.shards.summary import Summary
from mmbert_prep.shards.verify import verify_source
from mmbert_prep.tokenization.encoders import open_encoder
from tests.support.similar_texts import TextMaker
from tests.support.texts import command_line, json_lines, settings, tree

_MAKER = TextMaker("eng_Latn")
TEXTS, COPIES = zip(*(_MAKER.pair(60, 0.93, scattered=False) for _ in range(40)), strict=True)
_THAI = TextMaker("tha_Thai")
THAI = [_THAI.text(60) for _ in range(12)]
SOURCES = {
    "a": {"eng_Latn": [*TEXTS[:20], *COPIES[:8]], "tha_Thai": THAI},
    # Copies before their texts and after them, also of texts that the first source has.
    "b": {
        "eng_Latn": [*COPIES[5:8], *TEXTS[:9], *COPIES[8:12], *TEXTS[20:], *COPIES[30:]],
        "tha_Thai": THAI[3:],
    },
}
KEPT = {"a": set(TEXTS[:20]), "b": {*COPIES[5:12], *TEXTS[20:]}}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for source, languages in SOURCES.items():
        (folder / source).mkdir()
        for language, texts in languages.items():
            lines = json_lines({"text": text} for text in texts)
            (folder / source / f"{language}.jsonl").write_bytes(lines)
    return folder


def _make(
    corpus: Path, output: Path, names: Sequence[str] = ("a", "b"), **changes: Any
) -> list[Summary]:
    values = {"near_duplicates": 0.8, **changes}
    each = [settings(corpus / name, output, source=name, **values) for name in names]
    return preprocess_sources(SingleProcess(), each)


@pytest.fixture(scope="module")
def shards(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("shards")
    _make(corpus, output)
    return output


def _english(shards: Path, source: str) -> list[str]:
    encoder = open_encoder(shards / "tokenizer")
    folder = shards / source / "eng_Latn"
    manifest = read_manifest(folder)
    return [
        encoder.decode(dataset.document(number))
        for shard in (*manifest.train.shards, *manifest.heldout.shards)
        for dataset in [IndexedDataset(folder / shard.name)]
        for number in range(len(dataset))
    ]


def test_near_duplicates_within_a_source_and_duplicates_across(shards: Path, corpus: Path) -> None:
    """A near-copy of what another source has stays, and what was dropped drops nothing."""
    for source, kept in KEPT.items():
        assert sorted(_english(shards, source)) == sorted(kept)
        found = verify_source(shards / source, str(corpus / source))
        assert not any(check.errors for check in found.values())
    first, second = (read_manifest(shards / name / "eng_Latn") for name in SOURCES)
    assert first.rejected == {"near_duplicate": 8}
    assert second.rejected == {"duplicate_of_source": 9, "near_duplicate": 10}
    assert second.duplicates_of == {"a": 9}
    assert first.near_duplicates == second.near_duplicates is not None
    summary = Summary.model_validate_json((shards / "b" / "summary.json").read_bytes())
    # Nothing is left to compare.
    assert summary.without_text == {"tha_Thai": {RejectReason.DUPLICATE_OF_SOURCE: 9}}


def test_the_same_bytes_for_any_number_of_workers(
    shards: Path, corpus: Path, tmp_path: Path
) -> None:
    words = [word for name in SOURCES for word in ("--source", f"{name}={corpus / name}")]
    options = ["--near-duplicates", 0.8, "--workers", 2]
    result = command_line("--output", tmp_path, *words, *options)
    assert result.returncode == 0, result.stderr
    assert tree(tmp_path) == tree(shards)


def test_a_source_is_added_to_a_finished_one(shards: Path, corpus: Path, tmp_path: Path) -> None:
    """What the finished one dropped as near-duplicates is not taken for what it has."""
    same = {"tokenizer": shards / "tokenizer", "vocabulary_size": None}
    _make(corpus, tmp_path / "at once", **same)
    _make(corpus, tmp_path / "added", ("a",), **same)
    _make(corpus, tmp_path / "added", **same)
    assert tree(tmp_path / "added") == tree(tmp_path / "at once")
    assert sorted(_english(tmp_path / "added", "b")) == sorted(KEPT["b"])


def test_they_stay_dropped_where_duplicates_are_kept(
    shards: Path, corpus: Path, tmp_path: Path
) -> None:
    """Also a text that the first source has, too, after its near-copy."""
    same = {"tokenizer": shards / "tokenizer", "vocabulary_size": None, "heldout_share": 0.4}
    _make(corpus, tmp_path, deduplicate=False, **same)
    assert sorted(_english(tmp_path, "a")) == sorted(KEPT["a"])
    kept = [*COPIES[5:8], *TEXTS[:5], TEXTS[8], *COPIES[9:12], *TEXTS[20:]]
    assert sorted(_english(tmp_path, "b")) == sorted(kept)
    assert read_manifest(tmp_path / "b" / "eng_Latn").rejected == {"near_duplicate": 14}
