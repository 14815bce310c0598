"""Checkpoints with real ranks: any grid to any other, off the step, atomic, pruned, damaged."""

import logging
import random
import resource
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from mmbert.checkpoint import writer
from mmbert.checkpoint.format import Index, write_file
from mmbert.checkpoint.reader import CheckpointReader
from mmbert.checkpoint.store import CheckpointStore, RunState, logger
from mmbert.errors import UserError
from mmbert.training.engine.engine import Engine
from tests.support.prescribed_gradients import (
    SPECS,
    PrescribedBatch,
    gather_full,
    prescribed_engine,
    seeded,
    start,
)
from tests.support.ranks import run_ranks
from tests.support.step_settings import make_settings
from tests.support.step_weights import STATES

Array = npt.NDArray[np.float32]
GRIDS = [(1, 1), (2, 1), (1, 2), (2, 2), (4, 1)]  # tensor × data
LAYOUTS = [(tensor, data, stage) for tensor, data in GRIDS for stage in (1, 2, 3)]


def train(engine: Engine, first: int, last: int) -> None:
    """Steps [first, last); what they do depends on nothing but their numbers."""
    rank, parts = engine.grid.data.rank, engine.grid.data.size
    for step in range(first, last):
        for micro in range(rank, 4, parts):
            gradients = {
                name: torch.randn(spec.full_shape, generator=seeded(f"{name} {step} {micro}"))
                for name, spec in SPECS.items()
            }
            engine.forward_backward(
                PrescribedBatch(gradients), make_settings(), dropout_seed=None, loss_scale=0.25
            )
        assert engine.optimizer_step(make_settings(1e-2, 0.1)).finite


def state_at(step: int, **changes: Any) -> RunState:
    values = {"step": step, "tokens": 64 * step, "phase": "only", "recipe": "name: test\n"}
    return RunState(**(values | {"data": {"position": step}} | changes))


def all_states(engine: Engine) -> dict[str, Array]:
    """Full masters and states as "NAME/STATE" (NumPy: torch's would not outlive their rank)."""
    return {
        f"{name}/{state}": tensor.numpy()
        for state in STATES
        for name, tensor in gather_full(engine, state).items()
    }


def save_at_step_three(rank: int, world_size: int, root: Path, changes: dict[str, Any]) -> Any:
    """Three steps, a checkpoint, two more; the states then, full."""
    grid = start(rank, world_size, changes.pop("tensor", 1))
    engine, store = prescribed_engine(grid, **changes), CheckpointStore(root)
    train(engine, 0, 3)
    store.save(engine, state_at(3))
    train(engine, 3, 5)
    store.wait()
    return all_states(engine)


def load_and_save_again(
    rank: int,
    world_size: int,
    source: Path,
    root: Path,
    hops: Sequence[tuple[int, int]],
    changes: dict[str, Any],
) -> Any:
    """Through each (tensor, ZeRO stage) in turn: load the last checkpoint, write it again; then two
    steps more. The full states at the end."""
    for tensor, stage in hops:
        grid = start(rank, world_size, tensor)
        engine = prescribed_engine(grid, parallel__zero_stage=stage, **changes)
        store = CheckpointStore(root, asynchronous=False)
        state = store.load(engine, source)
        assert state == state_at(3)
        assert engine.steps_taken == 3
        source = store.save(engine, state)
        if (tensor, stage) != tuple(hops[-1]):
            engine.close()
    train(engine, 3, 5)
    return all_states(engine)


def all_saved(path: Path) -> dict[str, Array]:
    with CheckpointReader(path) as reader:
        return {
            f"{name}/{state}": reader.full(name, state).numpy()
            for state in STATES
            for name in reader.index.parameters
        }


def assert_bits_equal(one: dict[str, Array], other: dict[str, Array]) -> None:
    assert set(one) == set(other)
    for name, array in one.items():
        assert np.array_equal(array, other[name]), name


def chain(layouts: list[tuple[int, int, int]], tmp_path: Path, **changes: Any) -> int:
    """Carry one checkpoint through `layouts`; every copy must equal the first bit for bit, and two
    more steps must end where the first run did. The number of changes of layout."""
    (tensor, data, stage), *others = layouts
    root = tmp_path / "original"
    expected = run_ranks(
        save_at_step_three,
        tensor * data,
        root,
        {"tensor": tensor, "parallel__zero_stage": stage, **changes},
    )[0]
    source = root / "step-00000003"
    original = all_saved(source)
    number = 0
    while others:
        world_size = others[0][0] * others[0][1]
        hops = []
        while others and others[0][0] * others[0][1] == world_size:
            hops.append((others[0][0], others[0][2]))
            others.pop(0)
        number += 1
        root = tmp_path / f"copy-{number}"
        states = run_ranks(load_and_save_again, world_size, source, root, hops, changes)[0]
        source = root / "step-00000003"
        assert_bits_equal(all_saved(source), original)
        for name, reference in expected.items():
            difference = np.linalg.norm(states[name] - reference) / np.linalg.norm(reference)
            assert difference < 1e-5, (world_size, hops, name, difference)
    return len(layouts) - 1


def drawn_layouts(seed: int) -> list[tuple[int, int, int]]:
    """All layouts in a random order, in runs of equal world size (one launch each)."""
    generator, order = random.Random(seed), []
    for size in (2, 4, 1, 2):
        fitting = [layout for layout in LAYOUTS if layout[0] * layout[1] == size]
        order += generator.sample(fitting, 3 if size == 4 else 2)
    return order


def test_a_checkpoint_goes_through_drawn_grids_and_stages(tmp_path: Path) -> None:
    layouts = drawn_layouts(seed=2)
    assert len(set(layouts)) >= 7
    chain(layouts, tmp_path, precision="bfloat16")


@pytest.mark.long
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("seed", range(5))
def test_a_checkpoint_goes_through_all_layouts_in_any_order(
    seed: int, precision: str, tmp_path: Path
) -> None:
    chain(random.Random(seed).sample(LAYOUTS, len(LAYOUTS)), tmp_path, precision=precision)


def test_adamw_goes_through_another_grid_too(tmp_path: Path) -> None:
    chain([(1, 2, 1), (2, 1, 3)], tmp_path, optimizer__name="adamw")


def continue_on_the_same_grid(
    rank: int, world_size: int, root: Path, stages: Sequence[int], again: bool
) -> list[dict[str, Array]]:
    """Three steps, a checkpoint and two steps more; or the two steps from the checkpoint."""
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


def save_while_training(rank: int, world_size: int, root: Path) -> dict[str, Any]:
    """The disk stands still while steps are taken; what was seen meanwhile."""
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
    seen = {"writing": store.is_writing, "visible": path.exists(), "before": before}
    disk_may_go_on.set()
    store.wait()
    return seen | {"at last": path.exists(), "still writing": store.is_writing}


def test_writing_happens_off_the_step(tmp_path: Path) -> None:
    for seen in run_ranks(save_while_training, 2, tmp_path).values():
        assert seen["writing"]
        assert not seen["visible"], "a checkpoint must not be seen before it is whole"
        assert seen["at last"]
        assert not seen["still writing"]
    # What was saved is what was there then, though steps have been taken since.
    assert_bits_equal(all_saved(tmp_path / "step-00000003"), seen["before"])


def fill_the_disk(rank: int, world_size: int, root: Path, failing: int) -> dict[str, Any]:
    """The second of three saves finds no room on one rank."""
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
    # Every third is 2 and 5; a phase ended at 4; the last two are 6 and 7.
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


@pytest.fixture(scope="module")
def three_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of steps 1, 2 and 3, and the remains of a save that was killed."""
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
    """A copy of them to spoil."""
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
    """The second file, which only the second rank reads, is damaged: both hear of it."""
    damage(three / "step-00000003" / "rank-00001.safetensors", "flipped")
    results = run_ranks(latest_valid_of, 2, three)
    assert [results[rank][0] for rank in (0, 1)] == [three / "step-00000002"] * 2
    assert "step-00000003/rank-00001.safetensors" in results[0][1][0]
    assert results[1][1] == [], "said once, not by every rank"


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
    assert not list(three.glob(".*")), "remains of killed saves must go"


OTHER_MODELS = {
    "shape": "norm.weight of shape (13,), the model (12,)",
    "missing": "no parameter out.weight",
    "surplus": "a parameter surplus.weight",
}


def load_into_another_model(rank: int, world_size: int, root: Path) -> dict[str, str]:
    """Messages by fault; the index is made to speak of another model each time."""
    engine, store = prescribed_engine(start(rank, world_size, 1)), CheckpointStore(root)
    messages, index = {}, Index.read(root / "step-00000003")
    for fault in OTHER_MODELS:
        parameters = dict(index.parameters)
        if fault == "shape":
            changed = parameters["norm.weight"].model_copy(update={"shape": (13,)})
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
