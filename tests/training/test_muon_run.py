"""The training job with NorMuon: continued, begun at the end of a phase, and in a variant."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from mmbert.checkpoint.format import Index
from mmbert.training.fault_tolerance.hangs.watchdog import Activity
from tests.checkpoint.test_row_states import assert_equal
from tests.support import fault_injection
from tests.support.job_processes import exit_statuses, output_of, run_to_the_end, start_ranks
from tests.support.small_run import STEPS, options_for, step_losses
from tests.training import golden

pytestmark = pytest.mark.long
NORMUON = "optimizer.name=normuon"
LAST = Path("checkpoints") / f"step-{STEPS:08d}"


@pytest.mark.parametrize("layout", [(), ("parallel.tensor=2", "parallel.zero_stage=3")])
def test_a_stopped_run_goes_on_as_the_same_run(
    layout: tuple[str, ...], inputs: Path, tmp_path: Path
) -> None:
    whole, stopped = (
        options_for(inputs, tmp_path / name, NORMUON, *layout) for name in ("whole", "stopped")
    )
    assert run_to_the_end(whole) == [0, 0], output_of(whole)
    ranks = start_ranks(
        stopped,
        before=fault_injection.signal_at,
        arguments=(0, 12, Activity.TRAIN_STEP, signal.SIGTERM),
    )
    assert exit_statuses(ranks) == [75, 75], output_of(stopped)
    assert run_to_the_end(stopped) == [0, 0], output_of(stopped)
    assert step_losses(stopped.output) == step_losses(whole.output)
    alone = json.loads(golden.FILE.read_text())["losses"]["one rank, normuon"]
    found = [loss for _, loss in sorted(step_losses(whole.output).items())]
    assert found == pytest.approx(alone, rel=golden.TOLERANCE)
    assert_equal(stopped.output / LAST, whole.output / LAST)


def test_it_begins_at_the_end_of_a_phase_and_is_refused_within_one(
    inputs: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    first = options_for(inputs, run, stop_after_phase="pretrain")
    assert run_to_the_end(first) == [0, 0], output_of(first)
    then = options_for(inputs, run, NORMUON)
    ranks = start_ranks(
        then,
        before=fault_injection.signal_at,
        arguments=(0, 12, Activity.TRAIN_STEP, signal.SIGTERM),
    )
    assert exit_statuses(ranks) == [75, 75], output_of(then)
    index = Index.read(sorted((run / "checkpoints").iterdir())[-1])
    assert index.row_states
    assert not index.state.phase_end
    back = options_for(inputs, run)
    assert run_to_the_end(back) == [2, 2]
    text = output_of(back)
    assert "trained with optimizer.name=normuon, the recipe has optimizer.name=stable_adamw" in text
    assert "set optimizer.name back to normuon" in text
    assert run_to_the_end(then) == [0, 0], output_of(then)
    losses = step_losses(run)
    assert len(losses) == STEPS
    assert losses[STEPS] < losses[1]


def test_a_variant_takes_it(inputs: Path, undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    overrides = "{phases.decay.languages: [eng, deu], optimizer.name: normuon}"
    options = options_for(inputs, run, f"variants.english.overrides={overrides}", variant="english")
    assert run_to_the_end(options) == [0, 0], output_of(options)
    assert Index.read(run / "variants" / "english" / LAST).row_states
