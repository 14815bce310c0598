"""A process killed at any moment of its saves leaves a sound checkpoint behind, all of one step."""

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mmbert.parallel.description import InitialDistribution, ParameterDescription
from mmbert.training.checkpoint import CheckpointStore, RunState
from mmbert.training.checkpoint_format import Index
from mmbert.training.checkpoint_reading import CheckpointReader
from mmbert.training.fragments import STATES, ParameterFragment

ONES = InitialDistribution("ones")
SHAPES = {f"layer{number}.weight": (64, 256) for number in range(8)}


class Weights:
    """What a checkpoint store asks of an engine; every number in it is the step's."""

    def __init__(self) -> None:
        self.device, self.zero_stage, self.steps_taken = torch.device("cpu"), 1, 0
        self.grid = SimpleNamespace(tensor=SimpleNamespace(size=1), data=SimpleNamespace(size=1))

    def fragments(self) -> Iterator[ParameterFragment]:
        for name, shape in SHAPES.items():
            states = {state: torch.full((64 * 256,), float(self.steps_taken)) for state in STATES}
            description = ParameterDescription(shape, ONES, name=name)
            yield ParameterFragment(description, 0, 1, 0, 64 * 256, **states)


def save_for_ever(root: Path) -> None:
    """Save step after step, from the newest sound one on, as fast as the disk allows."""
    torch.set_num_threads(1)
    store, engine = CheckpointStore(root, keep_last=2), Weights()
    newest = store.newest_sound()
    step = 0 if newest is None else Index.read(newest).state.step
    while True:
        step += 1
        engine.steps_taken = step
        store.save(engine, RunState(step=step, tokens=step, phase="only", recipe=""))  # type: ignore[arg-type]


def kill_it_again_and_again(root: Path, times: int, seed: int) -> list[int]:
    """The steps of the newest sound checkpoint after each kill."""
    generator, steps = random.Random(seed), []
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "deepspeed", "distributed"])
    for _ in range(times):
        process = context.Process(target=save_for_ever, args=(root,), daemon=True)
        before = CheckpointStore(root).list()
        process.start()
        deadline = time.monotonic() + 60
        while CheckpointStore(root).list() == before:  # it has begun to save
            assert process.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(generator.random() * 0.05)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        steps.append(check(root))
    return steps


def check(root: Path) -> int:
    """The newest sound checkpoint's step; every number in it must be that."""
    store = CheckpointStore(root)
    newest = store.newest_sound()
    assert newest == store.list()[-1], "what has its name must be whole"
    with CheckpointReader(newest) as reader:
        state = reader.index.state
        for name in SHAPES:
            for kind in STATES:
                assert (reader.full(name, kind) == state.step).all(), (newest, name, kind)
    return state.step


def test_a_killed_save_leaves_the_one_before(tmp_path: Path) -> None:
    steps = kill_it_again_and_again(tmp_path, times=8, seed=1)
    assert steps == sorted(set(steps)), "each process continued from the checkpoint before"
    # The last process' remains go with the next save; no more than its own are ever there.
    assert len([path for path in tmp_path.iterdir() if path.name.startswith(".")]) <= 2


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4))
def test_a_killed_save_leaves_the_one_before_fifty_times(seed: int, tmp_path: Path) -> None:
    steps = kill_it_again_and_again(tmp_path, times=50, seed=seed)
    assert steps == sorted(set(steps))


def test_a_process_that_dies_does_not_wait_for_its_save(tmp_path: Path) -> None:
    """The writing thread must not keep a failing run alive."""
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=fail_while_saving, args=(tmp_path,), daemon=True)
    process.start()
    process.join(30)
    assert process.exitcode == 1
    assert CheckpointStore(tmp_path).list() == []


def fail_while_saving(root: Path) -> None:
    from mmbert.training import checkpoint_writing

    def stand_still(*_: Any) -> None:
        time.sleep(3600)

    checkpoint_writing.write_file = stand_still  # type: ignore[assignment]
    engine = Weights()
    CheckpointStore(root).save(engine, RunState(step=1, tokens=1, phase="only", recipe=""))  # type: ignore[arg-type]
    raise RuntimeError("the run fails")
