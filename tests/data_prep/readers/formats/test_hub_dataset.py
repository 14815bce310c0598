"""Datasets of the hub, with a mock of the library (tests have no network)."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from mmbert.errors import UserError
from mmbert_prep.readers import RejectReason, plan_ranges, read_range
from mmbert_prep.readers.discovery import discover
from tests.support.texts import documents, run, settings


class _Dataset:
    """Mock of the result of `load_dataset(…, streaming=True)`."""

    num_shards = 3

    def __init__(self, texts: list[str], index: int | None = None) -> None:
        self._texts, self._index = texts, index

    def shard(self, num_shards: int, index: int) -> _Dataset:
        assert num_shards == self.num_shards
        return _Dataset(self._texts, index)

    def __iter__(self) -> Any:
        assert self._index is not None, "a worker reads only its shard"
        for number, text in enumerate(self._texts):
            if number % self.num_shards == self._index:
                yield {"text": text}
        if any("network fails" in text for text in self._texts) and self._index == 1:
            raise ConnectionError("the network fails")


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    data = {"swh_Latn": documents("swh_Latn", 60), "yor_Latn": documents("yor_Latn", 30)}
    fake = types.ModuleType("datasets")

    def load_dataset(name: str, config: str, **options: Any) -> _Dataset:
        assert options == {"split": "train", "streaming": True, "revision": "0123abcd"}
        if config not in data:
            raise ValueError(f"BuilderConfig '{config}' not found")
        return _Dataset(data[config])

    fake.load_dataset = load_dataset  # type: ignore[attr-defined]
    fake.get_dataset_config_names = lambda name, revision: list(data)  # type: ignore[attr-defined]
    hub = types.ModuleType("huggingface_hub")
    information = types.SimpleNamespace(sha="0123abcd")
    api = types.SimpleNamespace(dataset_info=lambda name: information)
    hub.HfApi = lambda: api  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", fake)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    return data


def test_configurations_are_languages(library: dict[str, list[str]], tmp_path: Path) -> None:
    summary = run("hf:someone/web", tmp_path, vocabulary_size=500)
    read = {key: entry.documents_read for key, entry in summary.languages.items()}
    assert read == {"swh_Latn": 60, "yor_Latn": 30}


def test_configurations_as_people_name_languages(
    library: dict[str, list[str]], tmp_path: Path
) -> None:
    library |= {"sw": library.pop("swh_Latn"), "no": documents("nob_Latn", 10), "default": []}
    found = discover(settings("hf:someone/web", tmp_path))
    languages = {file.path.split(":")[2]: file.language for file in found.files}
    assert languages == {"yor_Latn": "yor_Latn", "sw": "swh_Latn", "no": None, "default": None}
    assert found.names["sw"].language == "swh_Latn"
    only = discover(settings("hf:someone/web:no", tmp_path, language="nno_Latn"))
    assert [file.language for file in only.files] == ["nno_Latn"]


def test_one_configuration_in_shards(library: dict[str, list[str]], tmp_path: Path) -> None:
    options = settings("hf:someone/web:yor_Latn", tmp_path)
    [file] = discover(options).files
    assert file.path == "hf:someone/web@0123abcd:yor_Latn:train"
    file_ranges = plan_ranges(file, 1, options)
    assert len(file_ranges) == 3
    found = [d.data for file_range in file_ranges for d in read_range(file_range, options)]
    assert sorted(found) == sorted(text.encode() for text in library["yor_Latn"])


def test_failures_are_told_and_nothing_is_missed(
    library: dict[str, list[str]], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="'nope' not found"):
        run("hf:someone/web:nope", tmp_path)
    library["yor_Latn"][7] = "here the network fails"
    with pytest.raises(UserError, match=r"yor_Latn:train cannot be read: the network fails"):
        run("hf:someone/web:yor_Latn", tmp_path, vocabulary_size=400)


def test_rows_are_selected_by_their_columns(library: dict[str, list[str]], tmp_path: Path) -> None:
    options = {"where": ("length(text) >= 60",), "vocabulary_size": 500, "heldout_share": 0.0}
    summary = run("hf:someone/web", tmp_path / "out", **options)
    for language, texts in library.items():
        long = [text for text in texts if len(text) >= 60]
        assert 0 < len(long) < len(texts)
        found = summary.languages[language]
        assert found.train_documents == len(long)
        assert found.rejected == {RejectReason.NOT_SELECTED: len(texts) - len(long)}
    with pytest.raises(UserError, match=r"yor_Latn:train has no column score\n.*columns are text"):
        run("hf:someone/web:yor_Latn", tmp_path / "out", where=("score > 1",))


def test_without_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="needs the datasets library"):
        run("hf:someone/web", tmp_path)
