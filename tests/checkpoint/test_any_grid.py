"""A checkpoint written on any grid and ZeRO stage continues on any other."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmbert.checkpoint.store import CheckpointStore
from tests.support.prescribed_gradients import (
    prescribed_engine,
    start,
)
from tests.support.prescribed_run import all_saved, all_states, assert_bits_equal, state_at, train
from tests.support.ranks import run_ranks

GRIDS = [(1, 1), (2, 1), (1, 2), (2, 2), (4, 1)]  # tensor × data
LAYOUTS = [(tensor, data, stage) for tensor, data in GRIDS for stage in (1, 2, 3)]


def save_at_step_three(rank: int, world_size: int, root: Path, changes: dict[str, Any]) -> Any:
    """Train three steps, save, train two more; returns the full states."""
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
    """Load and save the checkpoint again on each (tensor, ZeRO stage), then train two steps.

    Returns the full states at the end.
    """
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


def chain(layouts: list[tuple[int, int, int]], tmp_path: Path, **changes: Any) -> int:
    """Carry one checkpoint through `layouts` and return the number of layout changes.

    Every copy must be bitwise equal to the first, and two more steps must end where the first run
    did.
    """
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
    """Draw layouts in random order, grouped by world size (one launch each)."""
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
