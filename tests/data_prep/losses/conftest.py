"""Runs with a finished tokenizer, for the tests of this folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mmbert_prep.shards.summary import Summary
from tests.data_prep.losses.inputs import TEXT
from tests.support.texts import documents, json_lines, run


@pytest.fixture(scope="package")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    texts = [*documents("eng_Latn", 100), TEXT, "0123456789"]
    (folder / "eng_Latn.jsonl").write_bytes(json_lines({"text": text} for text in texts))
    run(folder, folder / "out", vocabulary_size=400)
    return folder / "out" / "tokenizer"


@pytest.fixture
def start(tokenizer: Path, tmp_path: Path) -> Callable[..., Summary]:
    """Function that runs the pipeline on tmp_path/in with a finished tokenizer."""
    shutil.copytree(tokenizer, tmp_path / "out" / "tokenizer")

    def start(**changes: object) -> Summary:
        values = {"vocabulary_size": None, "unit_bytes": 20_000, **changes}
        return run(tmp_path / "in", tmp_path / "out", **values)

    return start
