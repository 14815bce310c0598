"""Damaged checkpoints are named and skipped; a checkpoint of another model is refused."""

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from mmbert.checkpoint.format import Index
from mmbert.checkpoint.store import CheckpointStore, logger
from mmbert.errors import UserError
from tests.support.prescribed_gradients import (
    prescribed_engine,
    start,
)
from tests.support.prescribed_run import (
    all_saved,
    assert_bits_equal,
    state_at,
    train,
)
from tests.support.ranks import run_ranks


@pytest.fixture(scope="module")
def three_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of steps 1, 2 and 3, and leftovers of a killed save."""
    root = tmp_path_factory.mktemp("checkpoints")
    run_ranks(save_three, 2, root)
    remains = root / ".partial-step-00000004-0badc0de"
    remains.mkdir()
    (remains / "rank-00000.safetensors").write_bytes(b"half a file")
    return root


def save_three(rank: int, world_size: int, root: Path) -> None:
    engine, store = prescribed_engine(start(rank, world_size, 1)), CheckpointStore(root)
    for step in (1, 2, 3):
        train(engine, step, step + 1)
        store.save(engine, state_at(step))
    store.wait()


@pytest.fixture
def three(three_checkpoints: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoints to damage."""
    return shutil.copytree(three_checkpoints, tmp_path / "checkpoints")


def damage(path: Path, fault: str) -> None:
    if fault == "missing":
        path.unlink()
    elif fault == "cut short":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 16
        path.write_bytes(content)


@pytest.mark.parametrize("fault", ["missing", "cut short", "flipped"])
@pytest.mark.parametrize("file", ["rank-00001.safetensors", "index.json"])
def test_a_damaged_one_is_named_and_the_newest_sound_one_used(
    three: Path, fault: str, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert CheckpointStore(three).latest_valid() == three / "step-00000003"
    damage(three / "step-00000003" / file, fault)
    assert CheckpointStore(three).latest_valid() == three / "step-00000002"
    assert f"step-00000003/{file}" in caplog.text


def latest_valid_of(rank: int, world_size: int, root: Path) -> tuple[Path | None, list[str]]:
    start(rank, world_size, 1)
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger.addHandler(handler)
    return CheckpointStore(root).latest_valid(), records


def test_ranks_that_share_the_reading_agree(three: Path) -> None:
    """Both ranks learn that the second file, which only the second rank reads, is damaged."""
    damage(three / "step-00000003" / "rank-00001.safetensors", "flipped")
    results = run_ranks(latest_valid_of, 2, three)
    assert [results[rank][0] for rank in (0, 1)] == [three / "step-00000002"] * 2
    assert "step-00000003/rank-00001.safetensors" in results[0][1][0]
    assert results[1][1] == [], "reported once, not by every rank"


def test_the_newest_of_some(three: Path) -> None:
    store = CheckpointStore(three)
    assert store.latest_valid(up_to_step=2) == three / "step-00000002"
    assert store.latest_valid(up_to_step=0) is None
    assert CheckpointStore(three / "empty").latest_valid() is None


def test_when_none_is_sound_it_does_not_begin_anew(three: Path) -> None:
    for path in CheckpointStore(three).list():
        damage(path / "rank-00000.safetensors", "flipped")
    with pytest.raises(UserError, match="none of the 3 checkpoints"):
        CheckpointStore(three).latest_valid()


def overwrite_a_damaged_one(rank: int, world_size: int, root: Path) -> Any:
    engine, store = prescribed_engine(start(rank, world_size, 1)), CheckpointStore(root)
    path = store.latest_valid()
    assert path is not None
    state = store.load(engine, path)
    train(engine, 3, 4)
    store.save(engine, state_at(state.step + 1))
    store.wait()
    return store.latest_valid()


def test_a_damaged_checkpoint_is_replaced_when_its_step_comes_again(three: Path) -> None:
    original = all_saved(three / "step-00000003")
    damage(three / "step-00000003" / "rank-00000.safetensors", "flipped")
    assert run_ranks(overwrite_a_damaged_one, 2, three)[1] == three / "step-00000003"
    assert_bits_equal(all_saved(three / "step-00000003"), original)
    assert not list(three.glob(".*")), "leftovers of killed saves must be removed"


OTHER_MODELS = {
    "shape": "norm.weight of shape (12, 1), the model of shape (12,)",
    "missing": "lacks parameter out.weight",
    "surplus": "has parameter surplus.weight",
}


def load_into_another_model(rank: int, world_size: int, root: Path) -> dict[str, str]:
    """Return messages by fault; each index describes another model."""
    engine, store = prescribed_engine(start(rank, world_size, 1)), CheckpointStore(root)
    messages, index = {}, Index.read(root / "step-00000003")
    for fault in OTHER_MODELS:
        parameters = dict(index.parameters)
        if fault == "shape":
            changed = parameters["norm.weight"].model_copy(update={"shape": (12, 1)})
            parameters["norm.weight"] = changed
        elif fault == "missing":
            del parameters["out.weight"]
        else:
            parameters["surplus.weight"] = parameters["norm.weight"]
        path = root / fault
        if rank == 0:
            path.mkdir()
            changed_index = index.model_copy(update={"parameters": parameters})
            (path / "index.json").write_bytes(changed_index.dump())
        torch.distributed.barrier()
        try:
            store.load(engine, path)
        except UserError as error:
            messages[fault] = str(error)
    return messages


def test_another_model_is_refused_on_every_rank(three: Path) -> None:
    for messages in run_ranks(load_into_another_model, 2, three).values():
        for fault, message in OTHER_MODELS.items():
            assert message in messages[fault]
