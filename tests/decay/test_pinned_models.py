"""A branch of the Hub that moves between two stages does not change the model of a decay."""

import json
from pathlib import Path

import pytest

from mmbert.decay.layout import DecayFolder
from mmbert.decay.pinned_models import pinned_model
from tests.support.hub_stand_in import COMMIT, NAME, fill_cache, use_hub


def test_a_name_keeps_the_commit_of_its_first_use(
    released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, said = tmp_path / "cache", list[str]()
    snapshot = fill_cache(cache, released)
    use_hub(monkeypatch, cache, "http://127.0.0.1:9", offline=True)
    folder = DecayFolder(tmp_path / "decay")
    folder.path.mkdir()
    assert pinned_model(folder, f"{NAME}@main", said.append) == snapshot
    assert json.loads(folder.commits.read_text()) == {f"{NAME}@main": f"{NAME}@{COMMIT}"}
    # The branch moves to another commit.
    moved = snapshot.with_name("f" * 40)
    moved.symlink_to(snapshot)
    (ref,) = cache.glob("models--*/refs/main")
    ref.write_text(moved.name)
    assert pinned_model(folder, f"{NAME}@main", said.append) == snapshot
    other = DecayFolder(tmp_path / "other")
    other.path.mkdir()
    assert pinned_model(other, f"{NAME}@main", said.append) == moved


def test_a_folder_is_not_pinned(released: Path, tmp_path: Path) -> None:
    folder = DecayFolder(tmp_path)
    assert pinned_model(folder, str(released), print) == released
    assert not folder.commits.exists()
