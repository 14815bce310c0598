"""The demo corpus: number of languages, distinct documents, formats, reproducibility."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mmbert_prep.demo.corpus import HIGH, demo_languages, write_demo_corpus
from mmbert_prep.languages.keys import is_language_key
from mmbert_prep.readers import plan_ranges, read_range
from mmbert_prep.readers.discovery import discover
from tests.support.texts import environment, settings


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "corpus"
    write_demo_corpus(folder)
    return folder


def test_languages_documents_and_tiers(corpus: Path) -> None:
    options = settings(corpus, corpus / "out")
    found: dict[str, list[bytes]] = {}
    formats = set()
    for file in discover(options).files:
        formats.add((file.format, file.compression))
        for file_range in plan_ranges(file, 1 << 40, options):
            for document in read_range(file_range, options):
                assert document.language is not None
                assert document.data is not None
                found.setdefault(document.language, []).append(document.data)
    assert len(found) >= 150
    assert all(is_language_key(language) for language in found)
    assert all(len(set(texts)) == len(texts) >= 20 for texts in found.values())
    sizes = sorted((sum(map(len, texts)) for texts in found.values()), reverse=True)
    assert 6e6 < sum(sizes) < 10e6
    assert sizes[len(HIGH) - 1] > 200_000
    assert sizes[len(HIGH) + 39] > 40_000
    assert formats == {
        ("parquet", "none"),
        ("jsonl", "zstd"),
        ("jsonl", "gzip"),
        ("text", "none"),
    }


def test_always_the_same() -> None:
    assert demo_languages() == demo_languages()
    script = (
        "from mmbert_prep.demo.text import DocumentGenerator; import itertools;"
        "print(list(itertools.islice(DocumentGenerator('sw').documents(), 60)))"
    )
    found = {
        subprocess.check_output(
            [sys.executable, "-c", script], env={**environment(), "PYTHONHASHSEED": str(seed)}
        )
        for seed in (1, 2)
    }
    assert len(found) == 1


def test_it_does_not_write_over_anything(corpus: Path) -> None:
    with pytest.raises(FileExistsError):
        write_demo_corpus(corpus)


def test_codes() -> None:
    assert is_language_key("swh_Latn")
    assert not any(map(is_language_key, ("swh", "sw_Latn", "swh_latn", "swh_Latn_removed")))
