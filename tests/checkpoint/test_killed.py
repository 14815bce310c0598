"""A process killed during a save leaves a valid checkpoint of a single step."""

import itertools
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from mmbert.checkpoint.format import Index
from mmbert.checkpoint.store import CheckpointStore, RunState
from tests.support.ranks import rank_server
from tests.support.step_weights import StepWeights, newest_step
from tests.support.write_recorder import Recorder

CALLS_OF_A_SAVE = 20
"""Approximate calls of a save and a deletion; a process's first save has finished by then."""


def save_until(root: Path, call: int) -> None:
    """Save step after step from the latest checkpoint; die before the `call`-th file change."""
    torch.set_num_threads(1)
    store, engine = CheckpointStore(root, keep_last=2), StepWeights()
    newest = store.latest_valid()
    step = 0 if newest is None else Index.read(newest).state.step

    def die(number: int) -> None:
        if number == call:
            os.kill(os.getpid(), signal.SIGKILL)

    Recorder(root, before=die).patch(pytest.MonkeyPatch())
    while True:
        step += 1
        engine.steps_taken = step
        store.save(engine, RunState(step=step, tokens=step, phase="only", recipe=""))


def kill_at(root: Path, calls: Iterable[int]) -> list[int]:
    """Return the step of the latest valid checkpoint after each kill."""
    steps = []
    context = rank_server()
    for call in calls:
        process = context.Process(target=save_until, args=(root, call), daemon=True)
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        steps.append(newest_step(root))
    return steps


def test_a_killed_save_leaves_the_one_before(tmp_path: Path) -> None:
    """Kill at a few calls of a save, each time resuming; tests/durability covers all calls."""
    steps = kill_at(tmp_path, range(CALLS_OF_A_SAVE, 3 * CALLS_OF_A_SAVE, 8))
    assert all(later > earlier for earlier, later in itertools.pairwise(steps))
    # The next save removes leftovers, so that at most those of the last process exist.
    assert len([path for path in tmp_path.iterdir() if path.name.startswith(".")]) <= 2


@pytest.mark.long
def test_a_killed_save_leaves_the_one_before_at_every_call(tmp_path: Path) -> None:
    steps = kill_at(tmp_path, range(CALLS_OF_A_SAVE, 4 * CALLS_OF_A_SAVE))
    assert all(later > earlier for earlier, later in itertools.pairwise(steps))


def test_a_process_that_dies_does_not_wait_for_its_save(tmp_path: Path) -> None:
    """The writing thread must not keep a failing run alive."""
    context = rank_server()
    process = context.Process(target=fail_while_saving, args=(tmp_path,), daemon=True)
    process.start()
    process.join(30)
    assert process.exitcode == 1
    assert CheckpointStore(tmp_path).list() == []


def fail_while_saving(root: Path) -> None:
    from mmbert.checkpoint import writer

    def stand_still(*_: Any) -> None:
        time.sleep(3600)

    writer.write_file = stand_still  # type: ignore[assignment]
    engine = StepWeights()
    CheckpointStore(root).save(engine, RunState(step=1, tokens=1, phase="only", recipe=""))
    raise RuntimeError("the run fails")
