"""Retention never deletes the checkpoint that a run would resume from."""

from pathlib import Path

from mmbert.checkpoint.store import CheckpointStore, RunState, step_of
from tests.support.step_weights import StepWeights, newest_step


def save(store: CheckpointStore, *steps: int, end: bool = False) -> None:
    engine = StepWeights(layers=2, length=8)
    for step in steps:
        engine.steps_taken = step
        state = RunState(step=step, tokens=step, phase="only", recipe="name: x\n", phase_end=end)
        store.save(engine, state)  # type: ignore[arg-type]


def test_damaged_ones_further_on_do_not_count(tmp_path: Path) -> None:
    """The run resumed from step 10 and saves at earlier steps than before."""
    store = CheckpointStore(tmp_path, keep_last=2, asynchronous=False)
    save(store, 10, 20, 30)
    save(store, 10)
    for step in (20, 30):
        (tmp_path / f"step-{step:08d}" / "index.json").write_bytes(b"")
    assert step_of(store.latest_valid() or Path()) == 10
    save(store, 15)
    assert step_of(store.latest_valid() or Path()) == 15
    save(store, 25)
    assert [step_of(path) for path in store.list()] == [20, 25, 30]
    save(store, 35)
    assert newest_step(tmp_path) == 35


def test_a_phase_end_is_never_deleted(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=1, asynchronous=False)
    save(store, 1)
    save(store, 2, end=True)
    save(store, 3, 4)
    assert [step_of(path) for path in store.list()] == [2, 4]
