"""A store whose run folder was taken over publishes and deletes nothing more."""

from pathlib import Path
from typing import Any

import pytest

from mmbert.checkpoint import writer
from mmbert.checkpoint.store import CheckpointStore, RunState, step_of
from mmbert.errors import OutputError
from mmbert.ownership import FolderOwner, OwnershipLostError, take_folder
from tests.support.step_weights import StepWeights


def state(step: int) -> RunState:
    return RunState(step=step, tokens=step, phase="only", recipe="name: x\n")


def save(store: CheckpointStore, *steps: int, wait: bool = False) -> None:
    engine = StepWeights(layers=2, length=8)
    for step in steps:
        engine.steps_taken = step
        store.save(engine, state(step))  # type: ignore[arg-type]
    if wait:
        store.wait()


def steps(store: CheckpointStore) -> list[int]:
    return [step_of(path) for path in store.list()]


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_save_that_was_begun_before_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    """The folder is taken while the files are written; step 2 replaces an older one of its name."""
    owner = take_folder(tmp_path)
    root = tmp_path / "checkpoints"
    store = CheckpointStore(root, asynchronous=asynchronous, owner=owner)
    save(store, 1, 2, wait=True)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    taken: list[FolderOwner] = []

    def taking(*arguments: Any) -> Any:
        if not taken:
            taken.append(take_folder(tmp_path, forced=True))
        return original(*arguments)

    original = writer.write_file
    monkeypatch.setattr(writer, "write_file", taking)
    with pytest.raises(OwnershipLostError, match="was taken over by process"):
        save(store, 2, wait=True)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    with pytest.raises(OwnershipLostError):
        save(store, 3)
    assert steps(store) == [1, 2]
    taken[0].release()
    owner.release()


def test_a_folder_that_cannot_be_made_is_an_error_of_every_rank(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(OutputError):
        save(CheckpointStore(tmp_path / "checkpoints"), 1)


def test_nothing_is_deleted_in_a_folder_that_was_taken(tmp_path: Path) -> None:
    owner = take_folder(tmp_path)
    store = CheckpointStore(tmp_path / "checkpoints", keep_last=1, asynchronous=False, owner=owner)
    save(CheckpointStore(tmp_path / "checkpoints", asynchronous=False), 1, 2)
    with take_folder(tmp_path, forced=True):
        leftover = tmp_path / "checkpoints" / ".partial-step-00000003-of-the-next-owner"
        leftover.mkdir()
        for action in (
            lambda: store.prune(2),
            lambda: store.remove(store.list()[0]),
            lambda: save(store, 3),
        ):
            with pytest.raises(OwnershipLostError):
                action()
        assert leftover.is_dir()
        assert steps(store) == [1, 2]
    owner.release()
