"""Arrow streams and files, and datasets as `datasets` saves them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import feather

from mmbert.errors import UserError
from mmbert_prep.readers import plan_ranges
from mmbert_prep.readers.discovery import discover
from tests.support.reading import damage, read, read_lazily, reasons, texts
from tests.support.texts import documents, rows, settings

TEXTS = documents("swh_Latn", 30)


def stream(path: Path, table: pa.Table, **options: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, **options)
    return path


def file(path: Path, table: pa.Table, compression: str | None = None, **options: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    written = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_file(path, table.schema, options=written) as writer:
        writer.write_table(table, **options)
    return path


def save(folder: Path, texts: list[str], *, shards: int = 1, name: str = "data") -> None:
    """Write what `Dataset.save_to_disk` writes."""
    names = [f"{name}-{number:05}-of-{shards:05}.arrow" for number in range(shards)]
    for number, each in enumerate(names):
        stream(folder / each, pa.table({"text": texts[number::shards]}), max_chunksize=7)
    state = {"_data_files": [{"filename": each} for each in names], "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"description": "", "features": {}}))


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_files_are_divided_by_batches(compression: str | None, tmp_path: Path) -> None:
    path = file(
        tmp_path / "swh_Latn.arrow", pa.table({"text": TEXTS}), compression, max_chunksize=4
    )
    options = settings(tmp_path, tmp_path / "out")
    [found] = discover(options).files
    ranges = plan_ranges(found, path.stat().st_size // 3, options)
    assert [(each.start, each.stop) for each in ranges] == [(0, 2), (2, 4), (4, 6), (6, 8)]
    assert texts(read(tmp_path, path.stat().st_size // 3)) == TEXTS


@pytest.mark.parametrize("write", [stream, file])
def test_a_batch_as_large_as_the_file_is_not_copied(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    write(tmp_path / "swh_Latn.arrow", pa.table({"text": ["x" * 1000] * 20_000}))
    before = pa.total_allocated_bytes()
    allocated = 0
    for document in read_lazily(tmp_path):
        assert len(document.data or b"") == 1000
        allocated = max(allocated, pa.total_allocated_bytes() - before)
    assert allocated < 2_000_000


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.dictionary(pa.int8(), pa.string()),
        pa.dictionary(pa.int32(), pa.large_string()),
    ],
)
@pytest.mark.parametrize("write", [stream, file])
def test_text_types(kind: pa.DataType, write: Callable[..., Path], tmp_path: Path) -> None:
    try:
        values = pa.array(["eins", "zwei ü", None, "drei"]).cast(kind)
    except pa.ArrowNotImplementedError:
        pytest.skip("not supported by this version of Arrow")
    write(tmp_path / "deu_Latn.arrow", pa.table({"n": [1, 2, 3, 4], "text": values}))
    found = read(tmp_path)
    assert texts(found) == ["eins", "zwei ü", "drei"]
    assert reasons(found) == ["missing_text"]


def test_invalid_utf8_rejects_only_that_row(tmp_path: Path) -> None:
    column = pa.array([b"fine", b"\xff\xfe", b"good"]).view(pa.string())
    stream(tmp_path / "deu_Latn.arrow", pa.table({"text": column}))
    assert [document.data for document in read(tmp_path)] == [b"fine", b"\xff\xfe", b"good"]


def test_languages_columns_and_what_is_missing(tmp_path: Path) -> None:
    both = rows("eng_Latn", ["a"]) + rows("yor_Latn", ["b"])
    stream(tmp_path / "web.arrow", pa.Table.from_pylist(both))
    file(tmp_path / "other.feather", pa.table({"text": ["c"]}))
    assert [document.language for document in read(tmp_path)] == ["eng_Latn", "yor_Latn"]
    found = discover(settings(tmp_path, tmp_path / "out"))
    assert found.ignored == {"arrow whose path names no language": ["other.feather"]}
    path = stream(tmp_path / "eng_Latn.arrow", pa.table({"content": ["a"], "n": [1]}))
    assert "no column 'text' among content, n" in damage(read(path))
    path = file(tmp_path / "eng_Latn.arrow", pa.table({"text": [1]}))
    assert "type int64, which is not text" in damage(read(path))
    path = file(tmp_path / "eng_Latn.arrow", pa.table([["a"], ["b"]], names=["text", "text"]))
    assert "2 columns 'text'" in damage(read(path))
    path.write_bytes(b"FEA1" + bytes(100))
    assert "Feather version 1" in damage(read(path))


def test_streams_cut_between_batches_and_streams_in_a_row(tmp_path: Path) -> None:
    path = stream(tmp_path / "swh_Latn.arrow", pa.table({"text": TEXTS}), max_chunksize=10)
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    found = read(path)
    assert texts(found) == TEXTS
    assert "truncated" in damage(found)
    path.write_bytes(whole * 2)
    found = read(path)
    assert texts(found) == TEXTS
    assert "more after the end" in damage(found)


def test_saved_datasets(tmp_path: Path) -> None:
    save(tmp_path / "swh_Latn", TEXTS, shards=2)
    stream(tmp_path / "swh_Latn" / "cache-0123456789abcdef.arrow", pa.table({"text": ["cached"]}))
    assert sorted(texts(read(tmp_path))) == sorted(TEXTS)
    found = discover(settings(tmp_path, tmp_path / "out"))
    assert found.ignored == {
        "description of a dataset": ["swh_Latn/dataset_info.json"],
        "description of a saved dataset": ["swh_Latn/state.json"],
        "not a data file of the saved dataset, by its state.json": [
            "swh_Latn/cache-0123456789abcdef.arrow"
        ],
    }


def test_the_cache_of_datasets_and_feather_files(tmp_path: Path) -> None:
    folder = tmp_path / "wiki" / "swh_Latn" / "0.0.0" / "0123abcd"
    for name in ("wiki-train-00000-of-00002", "wiki-train-00001-of-00002", "wiki-test", "cache-ab"):
        stream(folder / f"{name}.arrow", pa.table({"text": [name]}))
    (folder / "dataset_info.json").write_text("{}")
    assert texts(read(tmp_path)) == ["wiki-train-00000-of-00002", "wiki-train-00001-of-00002"]
    found = discover(settings(tmp_path, tmp_path / "out"))
    assert sorted(map(len, found.ignored.values())) == [1, 1, 1]
    feather.write_feather(pa.table({"text": TEXTS}), str(tmp_path / "yor_Latn.feather"))
    assert texts(read(tmp_path / "yor_Latn.feather")) == TEXTS


def test_saved_datasets_that_lack_files_or_hold_a_selection(tmp_path: Path) -> None:
    save(tmp_path / "swh_Latn", TEXTS, shards=2)
    (tmp_path / "swh_Latn" / "data-00001-of-00002.arrow").unlink()
    found = discover(settings(tmp_path, tmp_path / "out"))
    missing = "state.json of a saved dataset of which data files are missing"
    assert found.ignored[missing] == ["swh_Latn/state.json"]
    save(tmp_path / "swh_Latn", TEXTS)
    state = json.loads((tmp_path / "swh_Latn" / "state.json").read_text())
    state["_indices_data_files"] = [{"filename": "indices.arrow"}]
    (tmp_path / "swh_Latn" / "state.json").write_text(json.dumps(state))
    with pytest.raises(UserError, match="selection of rows"):
        discover(settings(tmp_path, tmp_path / "out"))


def test_splits_of_saved_datasets(tmp_path: Path) -> None:
    place = tmp_path / "swh_Latn"
    for split, kept in (("train", TEXTS[:20]), ("test", TEXTS[20:25]), ("validation", TEXTS[25:])):
        save(place / split, kept)
    (place / "dataset_dict.json").write_text(
        json.dumps({"splits": ["train", "test", "validation"]})
    )
    assert texts(read(tmp_path)) == TEXTS[:20]
    ignored = discover(settings(tmp_path, tmp_path / "out")).ignored
    for split in ("test", "validation"):
        [names] = [names for reason, names in ignored.items() if f"split '{split}'" in reason]
        assert f"swh_Latn/{split}/data-00000-of-00001.arrow" in names
    assert texts(read(place / "test", language="swh_Latn")) == TEXTS[20:25]
    # Without a training split nothing is left, and the message says why.
    (place / "dataset_dict.json").write_text(json.dumps({"splits": ["test", "validation"]}))
    for path in (place / "train").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="split 'test'"):
        discover(settings(tmp_path, tmp_path / "out"))


def test_what_the_datasets_library_writes(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    whole = datasets.Dataset.from_dict({"text": TEXTS, "n": list(range(len(TEXTS)))})
    parts = whole.train_test_split(test_size=5, shuffle=False)
    parts.save_to_disk(tmp_path / "swh_Latn")
    whole.save_to_disk(tmp_path / "yor_Latn", num_shards=3)
    found = read(tmp_path)
    assert [d.data.decode() for d in found if d.language == "swh_Latn"] == TEXTS[:-5]
    assert texts([d for d in found if d.language == "yor_Latn"]) == TEXTS
    assert not reasons(found)
