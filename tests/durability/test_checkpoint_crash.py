"""After a power loss in a save, a deletion or a rollback, a run can resume."""

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mmbert.checkpoint.reader import verify_checkpoint
from mmbert.checkpoint.staging import HostStaging
from mmbert.checkpoint.store import CheckpointStore, RunState, step_of
from mmbert.checkpoint.writer import SaveJob, Writer
from mmbert.files import make_folder
from mmbert.parallel.host_group import HostGroup
from mmbert.recipe import CheckpointSettings, GuardSettings
from mmbert.training.fault_tolerance.loss_monitor import SkippedSteps
from mmbert.training.trainer import Trainer
from mmbert.training.trainer_parts.checkpointing import Checkpoints
from mmbert.training.trainer_parts.rollbacks import Rollbacks
from tests.durability.replay import Files, Replay, write
from tests.support.step_weights import StepWeights, newest_step
from tests.support.write_recorder import Recorder

PHASE_END = 1


def save(store: CheckpointStore, steps: range) -> None:
    """Save these steps, waiting for each; all values in a checkpoint equal its step."""
    engine = StepWeights(layers=2, length=8)
    for step in steps:
        engine.steps_taken = step
        state = RunState(
            step=step, tokens=step, phase="only", recipe="name: x\n", phase_end=step == PHASE_END
        )
        store.save(engine, state)


def store_in(run: Path) -> CheckpointStore:
    return CheckpointStore(run / "checkpoints", keep_last=1, asynchronous=False)


def record(
    folder: Path, monkeypatch: pytest.MonkeyPatch, action: Any, before: Files
) -> tuple[Replay, list[int]]:
    """Record `action(run, done)`, which appends the number of calls so far to `done`."""
    run = write(before, folder)
    recorder, done = Recorder(run), list[int]()
    with monkeypatch.context() as patch:
        recorder.patch(patch)
        action(run, lambda: done.append(len(recorder.events)))
    return Replay(before, recorder.events, recorder.contents()), done


def save_three(run: Path, done: Any) -> None:
    for step in range(1, 4):
        save(store_in(run), range(step, step + 1))
        done()


def test_every_crash_while_saving_leaves_the_newest_that_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three saves, the last and a phase's end are kept and the second is deleted."""
    replay, done = record(tmp_path / "run", monkeypatch, save_three, {})
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # milliseconds each
    states = 0
    for calls, files in replay.crashes():
        run, states = write(files, tmp_path / f"crash-{states}"), states + 1
        saved = sum(end <= calls for end in done)
        store = store_in(run)
        visible = store.list()
        assert [verify_checkpoint(path) for path in visible] == [None] * len(visible)
        newest = newest_step(store.root) if visible else 0
        assert newest in (saved, saved + 1), (calls, newest, saved)
        if newest >= PHASE_END:
            assert PHASE_END in {step_of(path) for path in visible}
        if states % 3 == 0:
            save(store, range(newest + 1, newest + 2))
            assert newest_step(store.root) == newest + 1
            assert not list(store.root.glob(".*")), "the next save removes leftovers"
    assert states > 100


def save_on_two_ranks(run: Path, done: Any) -> None:
    """Save like CheckpointStore.save, one rank after the other; each has half of a weight."""
    root, partial = run / "checkpoints", run / "checkpoints" / ".partial-step-00000001-0badc0de"
    make_folder(partial)
    engine = StepWeights(layers=1, length=16)
    engine.steps_taken = 1
    (whole,) = engine.fragments()
    half = {state: tensor[:8] for state, tensor in whole.states.items()}
    for rank in (1, 0):
        job = SaveJob(
            path=root / "step-00000001", partial=partial, rank=rank, world_size=2, writer="test",
            number=0, permanent=False, state=RunState(step=1, tokens=1, phase="only", recipe=""),
            optimizer_steps=1, tensor=1, data=2, zero_stage=1, commit_timeout=10,
        )  # fmt: skip
        staging = HostStaging()
        pieces = staging.stage(
            [replace(whole, start=8 * rank, length=8, states=half)], torch.device("cpu")
        )
        writer = Writer(job, staging, pieces, after_commit=lambda: None)
        writer.start()
        assert writer.result() is None
    done()


def test_every_crash_while_two_ranks_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replay, done = record(tmp_path / "run", monkeypatch, save_on_two_ranks, {})
    for number, (calls, files) in enumerate(replay.crashes()):
        root = write(files, tmp_path / f"crash-{number}") / "checkpoints"
        visible = CheckpointStore(root).list()
        assert len(visible) == 1 or calls < done[0]
        assert not visible or newest_step(root) == 1


def test_the_same_step_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a damaged checkpoint is replaced, the previous one is valid until the new one is."""

    def save_two(run: Path, done: Any) -> None:
        make_folder(run / "checkpoints")
        save(CheckpointStore(run / "checkpoints", asynchronous=False), range(1, 3))

    record(tmp_path / "first", monkeypatch, save_two, {})
    damaged = {
        str(path.relative_to(tmp_path / "first")): path.read_bytes()
        for path in (tmp_path / "first").rglob("*")
        if path.is_file()
    }
    name = "checkpoints/step-00000002/rank-00000.safetensors"
    damaged[name] = damaged[name][:-1]

    def again(run: Path, done: Any) -> None:
        store = CheckpointStore(run / "checkpoints", asynchronous=False)
        assert step_of(store.latest_valid() or Path()) == 1
        save(store, range(2, 3))
        done()

    replay, done = record(tmp_path / "again", monkeypatch, again, damaged)
    for number, (calls, files) in enumerate(replay.crashes()):
        run = write(files, tmp_path / f"crash-{number}")
        newest = CheckpointStore(run / "checkpoints").latest_valid()
        assert newest is not None
        assert step_of(newest) in ((2,) if calls >= done[0] else (1, 2))


def roll_back(run: Path, spike: int) -> None:
    """`Trainer.roll_back` with stand-ins for what it does not write through."""
    store = CheckpointStore(run / "checkpoints", asynchronous=False)
    ranks: Any = SimpleNamespace(host_group=HostGroup(0, 1), heartbeat=lambda *_: None)
    guard = GuardSettings(rollback=True, rollback_limit=3)
    loggers: Any = SimpleNamespace(event=lambda *_: None, attempt=lambda what, action: action())
    repetitions: Any = SimpleNamespace(
        accepts=lambda step: False,
        wants_repetition=lambda step: False,
        forget_from=lambda step: None,
    )
    trainer: Any = SimpleNamespace(
        rollbacks=Rollbacks(
            guard,
            ranks,
            Checkpoints(store, CheckpointSettings(), ranks),
            SkippedSteps.read(run),
            repetitions,
            loggers,
        ),
        metrics=SimpleNamespace(loggers=loggers, rewind=lambda step: None),
        load=lambda path: None,
        step=0,
    )
    at: Any = SimpleNamespace(step=spike)
    outcome: Any = None
    assert Trainer.roll_back(trainer, at, (), outcome)


def test_every_crash_in_a_rollback_leaves_the_spike_to_be_seen_again_or_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No crash leaves a checkpoint with suspect steps together with the record that they were
    skipped: the run would resume with them in its weights and report them as undone."""
    spike, prepared = 3, tmp_path / "prepared"
    make_folder(prepared / "checkpoints")
    save(CheckpointStore(prepared / "checkpoints", asynchronous=False), range(1, 4))
    before = {
        str(path.relative_to(prepared)): path.read_bytes()
        for path in prepared.rglob("*")
        if path.is_file()
    }
    replay, done = record(
        tmp_path / "run",
        monkeypatch,
        lambda run, done: (roll_back(run, spike), done()),
        before,
    )
    for number, (calls, files) in enumerate(replay.crashes()):
        run = write(files, tmp_path / f"crash-{number}")
        newest = CheckpointStore(run / "checkpoints").latest_valid()
        assert newest is not None
        skipped = SkippedSteps.read(run)
        if calls >= done[0]:
            assert skipped.steps == {2, 3}
        if skipped.steps:
            assert (skipped.steps, skipped.rollbacks) == ({2, 3}, 1)
            assert step_of(newest) == 2
        else:
            assert step_of(newest) in (2, 3)  # the next step or the one after is the spike
