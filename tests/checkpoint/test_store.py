"""Saving checkpoints: bit-exact continuation, off the step, full disks, retention."""

import resource
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from mmbert.checkpoint import writer
from mmbert.checkpoint.format import write_file
from mmbert.checkpoint.store import CheckpointStore
from mmbert.errors import UserError
from tests.support.prescribed_gradients import (
    prescribed_engine,
    start,
)
from tests.support.prescribed_run import (
    Array,
    all_saved,
    all_states,
    assert_bits_equal,
    state_at,
    train,
)
from tests.support.ranks import run_ranks


def continue_on_the_same_grid(
    rank: int, world_size: int, root: Path, stages: Sequence[int], again: bool
) -> list[dict[str, Array]]:
    """Train three steps, save and train two more; or only the two from the checkpoint."""
    results = []
    for stage in stages:
        grid = start(rank, world_size, 1)
        engine = prescribed_engine(grid, parallel__zero_stage=stage, precision="bfloat16")
        store = CheckpointStore(root / str(stage))
        if again:
            path = store.latest_valid()
            assert path is not None
            assert store.load(engine, path).step == 3
        else:
            train(engine, 0, 3)
            store.save(engine, state_at(3))
        train(engine, 3, 5)
        results.append(all_states(engine))
        store.wait()
        engine.close()
    return results


def test_at_the_same_grid_it_continues_bit_for_bit(tmp_path: Path) -> None:
    stages = (1, 2, 3)
    expected = run_ranks(continue_on_the_same_grid, 2, tmp_path, stages, False)[0]
    continued = run_ranks(continue_on_the_same_grid, 2, tmp_path, stages, True)[0]
    for before, after in zip(expected, continued, strict=True):
        assert_bits_equal(after, before)


def is_writing(store: CheckpointStore) -> bool:
    """Return whether this rank is still saving."""
    return store._writer is not None and not store._writer.finished_within(0)


def save_while_training(rank: int, world_size: int, root: Path) -> dict[str, Any]:
    """Train while the disk blocks; returns observations from meanwhile."""
    disk_may_go_on = threading.Event()

    def slow_write_file(*arguments: Any) -> Any:
        assert threading.current_thread() is not threading.main_thread()
        assert disk_may_go_on.wait(60)
        return write_file(*arguments)

    writer.write_file = slow_write_file
    engine = prescribed_engine(start(rank, world_size, 1), parallel__zero_stage=2)
    store = CheckpointStore(root)
    train(engine, 0, 3)
    before = all_states(engine)
    path = store.save(engine, state_at(3))
    train(engine, 3, 5)
    seen = {"writing": is_writing(store), "visible": path.exists(), "before": before}
    disk_may_go_on.set()
    store.wait()
    return seen | {"at last": path.exists(), "still writing": is_writing(store)}


def test_writing_happens_off_the_step(tmp_path: Path) -> None:
    for seen in run_ranks(save_while_training, 2, tmp_path).values():
        assert seen["writing"]
        assert not seen["visible"], "a checkpoint must not be visible before it is complete"
        assert seen["at last"]
        assert not seen["still writing"]
    # The saved states are those at the save, despite the steps since.
    assert_bits_equal(all_saved(tmp_path / "step-00000003"), seen["before"])


def fill_the_disk(rank: int, world_size: int, root: Path, failing: int) -> dict[str, Any]:
    """Save three times; the second finds no space on one rank."""
    engine, store = prescribed_engine(start(rank, world_size, 1)), CheckpointStore(root)
    train(engine, 0, 1)
    store.save(engine, state_at(1))
    store.wait()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if rank == failing:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    train(engine, 1, 2)
    store.save(engine, state_at(2))
    message = ""
    try:
        store.wait()
    except UserError as error:
        message = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    torch.distributed.barrier()
    seen = {"message": message, "newest": store.latest_valid()}
    store.save(engine, state_at(2))
    store.wait()
    return seen | {"afterwards": store.latest_valid()}


@pytest.mark.parametrize("failing", [0, 1])
def test_a_full_disk_is_said_on_all_ranks_and_touches_nothing(failing: int, tmp_path: Path) -> None:
    for seen in run_ranks(fill_the_disk, 2, tmp_path, failing).values():
        assert f"rank {failing}: " in seen["message"]
        assert "too large" in seen["message"]
        assert "step-00000002" in seen["message"]
        assert "free space" in seen["message"]
        assert seen["newest"] == tmp_path / "step-00000001"
        assert seen["afterwards"] == tmp_path / "step-00000002"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def save_often(rank: int, world_size: int, root: Path, options: dict[str, Any]) -> list[str]:
    engine, store = prescribed_engine(start(rank, world_size, 1)), CheckpointStore(root, **options)
    for step in range(8):
        store.save(engine, state_at(step, phase_end=step == 4))
    store.wait()
    return [path.name for path in store.list()]


def test_the_last_ones_every_nth_and_phase_ends_are_kept(tmp_path: Path) -> None:
    names = run_ranks(save_often, 1, tmp_path, {"keep_last": 2, "keep_every": 3})[0]
    # Every third: 2 and 5; end of a phase: 4; last two: 6 and 7.
    assert names == [f"step-0000000{step}" for step in (2, 4, 5, 6, 7)]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def saves_with_a_number(rank: int, world_size: int, root: Path, steps: list[int]) -> list[str]:
    engine = prescribed_engine(start(rank, world_size, 1))
    store = CheckpointStore(root, keep_last=1, keep_every=2)
    for step in steps:
        store.save(engine, state_at(step))
    store.wait()
    return [path.name for path in store.list()]


def test_every_nth_is_counted_across_restarts(tmp_path: Path) -> None:
    run_ranks(saves_with_a_number, 1, tmp_path, [1, 2, 3])
    names = run_ranks(saves_with_a_number, 1, tmp_path, [4, 5])[0]
    assert names == [f"step-0000000{step}" for step in (2, 4, 5)]
