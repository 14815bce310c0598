"""Before the first step: the log's first line, the memory check and initial weights."""

import json
import platform
from importlib.metadata import version
from pathlib import Path

import pytest

from mmbert.checkpoint.format import Index
from mmbert.checkpoint.store import read_parameters
from mmbert.recipe import Recipe, load_recipe
from mmbert.report.run import read_run
from tests.support import fault_injection
from tests.support.job_processes import exit_statuses, output_of, run_to_the_end, start_ranks
from tests.support.small_run import (
    SIZES,
    STEPS,
    events,
    log_of,
    options_for,
    step_losses,
    warnings_of_run,
    write_initial_checkpoint,
)


def test_trying_the_largest_batches_leaves_no_trace(
    inputs: Path, undisturbed: Path, tmp_path: Path
) -> None:
    options = options_for(inputs, tmp_path / "run", stop_after_phase="pretrain")
    ranks = start_ranks(options, before=fault_injection.without_memory_check)
    assert exit_statuses(ranks) == [0, 0], output_of(options)
    expected = {step: loss for step, loss in step_losses(undisturbed).items() if step <= 10}
    assert step_losses(options.output) == expected


def test_a_start_tells_the_recipe_the_machines_and_the_size_of_the_data(
    inputs: Path, undisturbed: Path
) -> None:
    (start,) = events(undisturbed, "start")
    assert list(start)[:5] == ["unix_time", "time", "event", "step", "text"]
    assert (start["step"], start["text"]) == (0, f"starting small: {STEPS} steps")
    assert Recipe.model_validate(start["recipe"]) == load_recipe(inputs / "recipe.yaml")
    assert (start["hosts"], start["devices"]) == (1, 2)
    assert start["device_name"] == platform.machine()
    versions = {name: version(name) for name in ("torch", "deepspeed")}
    assert start["versions"].items() >= {**versions, "python": platform.python_version()}.items()
    # What was trained on, in epochs of the size that is told.
    seen = Index.read(undisturbed / "checkpoints" / f"step-{STEPS:08d}").state.language_tokens
    last = [entry for entry in log_of(undisturbed) if "epochs_by_language" in entry][-1]
    sizes = start["train_tokens_by_language"]
    assert set(sizes) == set(SIZES)
    assert {name: seen[name] / sizes[name] for name in seen} == pytest.approx(
        last["epochs_by_language"]
    )
    run = read_run(undisturbed, "run")
    assert run.missing == ()
    assert run.train_tokens == sizes


def test_a_phase_that_does_not_fit_is_named_before_training(inputs: Path, tmp_path: Path) -> None:
    options = options_for(inputs, tmp_path / "run")
    ranks = start_ranks(options, before=fault_injection.run_out_of_memory, arguments=(160000,))
    assert exit_statuses(ranks) == [2, 2], output_of(options)
    said = output_of(options)
    assert said.count("phase 'extension' (context 128, 256 tokens per row) does not fit") == 1
    assert "model.recompute=full" in said
    assert "parallel.zero_stage=2" in said
    assert events(options.output, "phase") == []


def test_training_starts_from_given_weights_on_any_grid(
    inputs: Path, undisturbed: Path, tmp_path: Path
) -> None:
    weights = dict(read_parameters(undisturbed / "checkpoints" / f"step-{STEPS:08d}"))
    imported = write_initial_checkpoint(tmp_path / "imported", inputs, weights)
    overrides = (
        f"initial_checkpoint={imported}", "parallel.tensor=2",
        "phases.pretrain.rotary_bases={global: 160000, local: 160000}",
    )  # fmt: skip
    options = options_for(inputs, tmp_path / "run", *overrides, stop_after_phase="pretrain")
    assert run_to_the_end(options) == [0, 0], output_of(options)
    begun, ended = (
        json.loads((run / "results.json").read_text())["phases"]
        for run in (options.output, undisturbed)
    )
    expected = ended[2]["held_out_end"]["languages"]
    assert begun[0]["held_out_start"]["languages"] == pytest.approx(expected, rel=1e-5)


def test_weights_of_another_shape_than_their_config_says_are_refused_with_the_parameter(
    inputs: Path, undisturbed: Path, tmp_path: Path
) -> None:
    weights = dict(read_parameters(undisturbed / "checkpoints" / f"step-{STEPS:08d}"))
    weights["model.layers.0.mlp.Wi.weight"] = weights["model.layers.0.mlp.Wi.weight"][:90].clone()
    imported = write_initial_checkpoint(tmp_path / "imported", inputs, weights)
    options = options_for(inputs, tmp_path / "run", f"initial_checkpoint={imported}")
    assert run_to_the_end(options, world_size=1) == [2]
    assert "model.layers.0.mlp.Wi.weight has shape (90, 32)" in output_of(options)


def test_other_rotary_bases_than_the_given_weights_had_are_warned_of(
    inputs: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """The weights come from the last phase, whose rotary bases differ from those of the first."""
    weights = dict(read_parameters(undisturbed / "checkpoints" / f"step-{STEPS:08d}"))
    imported = write_initial_checkpoint(tmp_path / "imported", inputs, weights)
    options = options_for(
        inputs, tmp_path / "run", f"initial_checkpoint={imported}", stop_after_phase="pretrain"
    )
    assert run_to_the_end(options, world_size=1) == [0], output_of(options)
    said = [event["text"] for event in warnings_of_run(options.output)]
    assert len(said) == 2
    assert "rotary_bases.global of the first phase is 10000" in said[0]
    assert "trained with 160000" in said[0]
    assert all(text in output_of(options) for text in said)
