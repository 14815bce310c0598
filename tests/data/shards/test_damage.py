"""Damaged shards during loading give an error that names the file, or the right tokens."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmbert.data.loading.loader import RowLoader
from mmbert.data.loading.rows import Row
from mmbert.data.shards.corpus import open_corpus
from mmbert.errors import UserError
from mmbert.recipe import Recipe
from mmbert.schedule import training_plan
from tests.support.corpora import write_corpus
from tests.support.recipes import phase, small_recipe

FILES = ["train-00000.idx", "train-00000.bin", "pieces-64.npy", "manifest.json"]


def _recipe() -> Recipe:
    return small_recipe(phase("a", 3072), row_tokens=256, rows=2, quantum=2)


def _read(shards: Path) -> list[Row]:
    recipe = _recipe()
    return list(RowLoader(open_corpus(shards), recipe, training_plan(recipe)))


class Sound:
    """Valid shards of one language whose documents are all read, and their ids."""

    def __init__(self, root: Path) -> None:
        self.root = root
        lengths = [20, 3, 130, 64, 40, 9, 0, 75] * 5
        write_corpus(root, {"web": {"aaa_Latn": lengths}}, contexts=[64])
        self.ids = [row.input_ids.tolist() for row in _read(root)]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    """Shared by all cases, which work on copies."""
    return Sound(tmp_path_factory.mktemp("sound"))


def _damaged_run(sound: Sound, folder: Path, data: st.DataObject) -> None:
    """Damage one file and read everything.

    Expects a UserError that names a file of the language, or rows whose segments are those of the
    documents (only checksums can detect a changed id within the vocabulary).
    """
    root = folder / "shards"
    shutil.copytree(sound.root, root)
    name = data.draw(st.sampled_from(FILES))
    path = root / "web/aaa_Latn" / name
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    kind = data.draw(st.sampled_from(["bit", "byte", "cut", "insert"]))
    if kind == "bit":
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "byte":
        content[place] = data.draw(st.integers(0, 255))
    elif kind == "cut":
        del content[place:]
    else:
        content[place:place] = data.draw(st.binary(min_size=1, max_size=9))
    path.write_bytes(content)
    try:
        rows = _read(root)
    except UserError as error:
        message = error.message
    else:
        message = str(root)
        if name == "train-00000.idx":  # nothing wrong ever comes through a damaged index
            assert [row.input_ids.tolist() for row in rows] == sound.ids
    finally:
        shutil.rmtree(root)
    assert str(root) in message or "aaa_Latn" in message or "phase" in message


@given(st.data())
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_damage_is_named(sound: Sound, tmp_path: Path, data: st.DataObject) -> None:
    _damaged_run(sound, tmp_path, data)


@pytest.mark.long
@pytest.mark.timeout(3600)
@given(st.data())
@settings(
    max_examples=10_000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_damage_is_named_ten_thousand_times(
    sound: Sound, tmp_path: Path, data: st.DataObject
) -> None:
    _damaged_run(sound, tmp_path, data)
