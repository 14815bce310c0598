"""Dropout of a phase: it acts only in that phase, and stopping within it changes nothing."""

import shutil
import signal
from pathlib import Path

import torch

from mmbert.data.loading.packing import RowShape
from mmbert.model.config import encoder_config
from mmbert.model.initialization import initialize_parameters
from mmbert.model.modernbert import MaskedLanguageModel
from mmbert.parallel.process_grid import TensorGroup
from mmbert.recipe import parse_recipe
from mmbert.training.fault_tolerance.hangs.watchdog import Activity
from mmbert.training.fault_tolerance.memory_check import worst_case_batch
from tests.support import fault_injection
from tests.support.job_processes import exit_statuses, output_of, run_to_the_end, start_ranks
from tests.support.small_run import RECIPE, events, log_of, options_for, step_losses


def test_the_share_is_given_with_the_row_and_is_the_models_unless_given() -> None:
    recipe = parse_recipe(RECIPE)
    model = MaskedLanguageModel(
        encoder_config(recipe.model, 256), TensorGroup.single(), sequence_parallel=False
    )
    initialize_parameters(model, 1)
    row = worst_case_batch(recipe.phases[0], RowShape(256, 85), 256, torch.device("cpu"))
    bases = recipe.phases[0].rotary_bases

    def losses(seed: int | None, share: float | None = None) -> torch.Tensor:
        with torch.no_grad():
            return model(row, rotary_bases=bases, dropout_seed=seed, dropout=share)

    assert torch.equal(losses(7), losses(7, 0.1))
    assert torch.equal(losses(7, 0.0), losses(None))
    assert not torch.equal(losses(7, 0.1), losses(7, 0.3))


def test_another_dropout_begins_with_its_phase_and_outlives_a_stop(
    inputs: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """Checkpoints of a run with the same dropout throughout resume with another dropout."""
    for name in ("whole", "stopped"):
        shutil.copytree(undisturbed, tmp_path / name)
        for checkpoint in (tmp_path / name / "checkpoints").glob("step-*"):
            if checkpoint.name != "step-00000010":
                shutil.rmtree(checkpoint)
    whole = options_for(inputs, tmp_path / "whole", "phases.extension.dropout=0.3")
    assert run_to_the_end(whole) == [0, 0], output_of(whole)
    stopped = options_for(inputs, tmp_path / "stopped", "phases.extension.dropout=0.3")
    ranks = start_ranks(
        stopped,
        before=fault_injection.signal_at,
        arguments=(1, 13, Activity.TRAIN_STEP, signal.SIGTERM),
    )
    assert exit_statuses(ranks) == [75, 75], output_of(stopped)
    assert run_to_the_end(stopped) == [0, 0], output_of(stopped)

    before, after = step_losses(undisturbed), step_losses(whole.output)
    assert {step for step, loss in after.items() if loss != before[step]} == set(range(11, 23))
    assert step_losses(stopped.output) == after
    shares = {entry["step"]: entry["dropout"] for entry in log_of(whole.output) if "loss" in entry}
    assert [shares[step] for step in (10, 11, 16, 17)] == [0.1, 0.3, 0.3, 0.1]
    texts = [entry["text"] for entry in events(whole.output, "phase")]
    assert ["dropout 0.3" in text for text in texts[-2:]] == [True, False]
