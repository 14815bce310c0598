"""Files changed during loading: truncated ones are reported, replaced ones stay readable."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmbert.data.loading.loader import RowLoader
from mmbert.data.loading.rows import Row
from mmbert.data.shards.corpus import open_corpus
from mmbert.data.shards.indexed_dataset import IndexedDataset
from mmbert.data.shards.shard_pool import CHECK_SECONDS
from mmbert.errors import UserError
from mmbert.schedule import training_plan
from tests.support.corpora import write_corpus
from tests.support.recipes import phase, small_recipe

FILES = ["train-00000.bin", "train-00000.idx", "pieces-64.npy"]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    root = tmp_path / "shards"
    write_corpus(root, {"web": {"aaa_Latn": [20, 3, 130, 64, 40, 9, 75] * 300}}, contexts=[64])
    return root


def loader(shards: Path, workers: int = 0) -> RowLoader:
    recipe = small_recipe(phase("a", 40_000), row_tokens=256, rows=2, quantum=2)
    return RowLoader(open_corpus(shards), recipe, training_plan(recipe), workers=workers)


def ids(rows: Iterator[Row]) -> list[list[int]]:
    return [row.input_ids.tolist() for row in rows]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short_is_named(shards: Path, name: str, workers: int) -> None:
    path = shards / "web/aaa_Latn" / name
    running = loader(shards, workers)
    rows = iter(running)
    next(rows)
    os.truncate(path, 100)
    time.sleep(1.5 * CHECK_SECONDS)  # a read before the next check may die of SIGBUS
    with pytest.raises(UserError, match=rf"{name} was truncated .*\(100 of"):
        list(rows)
    running.close()


@pytest.mark.parametrize("name", FILES)
def test_a_file_renamed_over_is_read_as_it_was(shards: Path, name: str) -> None:
    expected = ids(iter(loader(shards)))
    path = shards / "web/aaa_Latn" / name
    rows = iter(loader(shards))
    first = next(rows)
    other = path.with_suffix(".other")
    other.write_bytes(b"not a shard")
    os.replace(other, path)
    assert [first.input_ids.tolist(), *ids(rows)] == expected


def test_single_documents_of_a_file_cut_short(shards: Path) -> None:
    dataset = IndexedDataset(shards / "web/aaa_Latn/train-00000")
    assert len(dataset.document(2)) == 130
    os.truncate(shards / "web/aaa_Latn/train-00000.bin", 8192)
    with pytest.raises(UserError, match=r"train-00000\.bin was truncated"):
        dataset.document(900)


def test_a_reader_that_died_of_a_cut_file_says_which(shards: Path) -> None:
    """Truncated between the size check and the read, which kills the worker by SIGBUS."""
    running = loader(shards, workers=1)
    rows = iter(running)
    next(rows)
    assert running._workers is not None
    shutil.copyfile(shards / "web/aaa_Latn/train-00000.bin", shards / "copy")
    os.kill(running._workers._processes[0].pid, signal.SIGBUS)
    os.truncate(shards / "web/aaa_Latn/train-00000.bin", 0)
    with pytest.raises(UserError, match=r"train-00000\.bin was truncated .*\(0 of"):
        list(rows)
    running.close()
    os.replace(shards / "copy", shards / "web/aaa_Latn/train-00000.bin")
    running = loader(shards, workers=1)
    rows = iter(running)
    next(rows)
    assert running._workers is not None
    os.kill(running._workers._processes[0].pid, signal.SIGBUS)
    with pytest.raises(RuntimeError, match=r"worker died .* \(exit -7\)"):
        list(rows)
    running.close()
