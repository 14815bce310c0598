"""A causal phase before masked ones: the whole run, its losses, resuming, and what is refused."""

import io
import json
import shutil
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from mmbert.checkpoint.store import read_parameters
from mmbert.data.loading.loader import RowLoader
from mmbert.data.shards.corpus import open_corpus
from mmbert.model.config import encoder_config
from mmbert.model.flops import training_flops
from mmbert.recipe import load_recipe
from mmbert.report.run import read_run
from mmbert.report.tables import held_out_tables
from mmbert.schedule import training_plan
from mmbert.training.run_config import print_plan, resolve_run_config
from tests.support.decoder import decoder_logits
from tests.support.job_processes import output_of, run_to_the_end
from tests.support.small_run import events, log_of, options_for, step_losses

KEYS = ("objective=causal", "mask_ratio=null", "predicted_share=0.25")
OVERRIDES = (
    *(f"phases.pretrain.{key}" for key in KEYS),
    *("phases.pretrain.dropout=0", "checkpoint.keep_last=20", "phases.decay.tokens=3k"),
)
STEPS = 19  # 10 causal, 6 and 3 masked


@pytest.fixture(scope="module")
def whole(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run with a causal first phase, on one rank; read-only."""
    run = tmp_path_factory.mktemp("causal") / "run"
    options = options_for(inputs, run, *OVERRIDES)
    assert run_to_the_end(options, world_size=1) == [0], output_of(options)
    return run


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    return dict(read_parameters(run / "checkpoints" / f"step-{step:08d}"))


def test_both_losses_are_in_log_results_and_report(whole: Path) -> None:
    losses = step_losses(whole)
    assert sorted(losses) == list(range(1, STEPS + 1))
    settings = [entry for entry in log_of(whole) if "step_loss" in entry]
    assert [entry.get("predicted_share") for entry in settings] == [0.25] * 10 + [None] * 9
    assert [entry.get("mask_ratio") for entry in settings] == [None] * 10 + [0.15] * 6 + [0.05] * 3
    assert "objective causal" in events(whole, "phase")[0]["text"]
    assert "objective" not in events(whole, "phase")[1]["text"]
    measured = events(whole, "held-out")
    assert "causal, the phase's objective, " in measured[0]["text"]
    assert "; masked " in measured[0]["text"]
    assert "masked, the phase's objective, " in measured[-1]["text"]
    results = json.loads((whole / "results.json").read_text())
    first, second, _ = results["phases"]
    assert (first["objective"], first["predicted_share"], first["mask_ratio"]) == (
        "causal", 0.25, None,
    )  # fmt: skip
    assert (second["objective"], second["mask_ratio"]) == ("masked", 0.15)
    assert first["held_out_causal_end"]["overall"] == measured[1]["causal"]["overall"]
    assert first["held_out_end"]["overall"] == measured[1]["overall"]
    # It learns what it is trained on; the other objective has its own value.
    assert first["held_out_causal_end"]["overall"] < first["held_out_causal_start"]["overall"]
    assert first["held_out_causal_end"]["overall"] != first["held_out_end"]["overall"]
    titles = {table.title: table for table in held_out_tables(read_run(whole, "run"))}
    causal = titles["run: held-out causal loss by tier"]
    assert causal.headings[1] == "pretrain (causal)"
    assert f"{first['held_out_causal_end']['overall']:.4f}" in causal.rows[-1][1]


@pytest.mark.parametrize("step", [8, pytest.param(10, marks=pytest.mark.long)])
def test_a_resumed_run_is_the_same_run(
    inputs: Path, whole: Path, tmp_path: Path, step: int
) -> None:
    """From within the causal phase, and from its end: losses and weights to the bit."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    for checkpoint in (run / "checkpoints").glob("step-*"):
        if int(checkpoint.name.removeprefix("step-")) > step:
            shutil.rmtree(checkpoint)
    assert (run / "checkpoints" / f"step-{step:08d}").is_dir()
    options = options_for(inputs, run, *OVERRIDES, stop_after_phase="extension")
    assert run_to_the_end(options, world_size=1) == [0], output_of(options)
    assert f"at step {step} of {STEPS}" in events(run, "start")[-1]["text"]
    expected = {one: loss for one, loss in step_losses(whole).items() if one <= 16}
    assert {one: loss for one, loss in step_losses(run).items() if one <= 16} == expected
    found, wanted = weights(run, 16), weights(whole, 16)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    last = [[event for event in events(folder, "held-out") if event["step"] == 16][-1]
            for folder in (run, whole)]  # fmt: skip
    assert last[0]["causal"] == last[1]["causal"]


def test_step_losses_are_cross_entropies_of_next_tokens(inputs: Path, whole: Path) -> None:
    """The loss of the step after a checkpoint, by a float64 decoder, document by document.

    The run computes in float32: 1e-5.
    """
    recipe = load_recipe(inputs / "recipe.yaml", OVERRIDES)
    plan, corpus = training_plan(recipe), open_corpus(inputs / "shards")
    step = 8
    at, bases = plan.at(step), recipe.phases[0].rotary_bases
    config = encoder_config(recipe.model, 256)
    saved = {name: tensor.double() for name, tensor in weights(whole, step).items()}
    losses, flops = [], 0.0
    for row in islice(RowLoader(corpus, recipe, plan), at.first_row, at.first_row + at.rows):
        lengths = np.diff(row.cu_seqlens)[row.segment_components >= 0]
        flops += training_flops(recipe.model, 256, lengths, len(row.labels), causal=True)
        ids, used = torch.from_numpy(row.input_ids).long(), row.weights > 0
        for start, end in pairwise(row.cu_seqlens.tolist()):
            inside = (row.masked_positions >= start) & (row.masked_positions < end) & used
            if inside.any():
                places = torch.from_numpy(row.masked_positions[inside]).long()
                logits = decoder_logits(saved, config, bases, ids[start:end])[places - start]
                losses += functional.cross_entropy(
                    logits, ids[places + 1], reduction="none"
                ).tolist()
    assert len(losses) > 200
    (line,) = [line for line in log_of(whole) if line["step"] == step + 1 and "step_loss" in line]
    counted = line["model_flops_per_second"] * line["interval_seconds"]
    assert counted == pytest.approx(flops, rel=1e-6)
    assert sum(losses) / len(losses) == pytest.approx(step_losses(whole)[step + 1], rel=1e-5)


def test_the_dry_run_names_the_objective(inputs: Path, tmp_path: Path) -> None:
    printed = io.StringIO()
    options = options_for(inputs, tmp_path / "run", *OVERRIDES)
    print_plan(resolve_run_config(options, 1), 1, printed)
    text = printed.getvalue()
    assert "context 64, 64 prediction slots a row\n#   objective causal, learning" in text
    assert "39 mask slots a row" in text


def test_another_objective_is_refused(inputs: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    for overrides, key in (
        (OVERRIDES[3:], "phases.pretrain.objective=causal, the recipe has"),
        ((*OVERRIDES[:2], "phases.pretrain.predicted_share=0.5", *OVERRIDES[3:]),
         "phases.pretrain.predicted_share=0.25, the recipe has"),
    ):  # fmt: skip
        options = options_for(inputs, run, *overrides)
        assert run_to_the_end(options, world_size=1) == [2]
        assert key in output_of(options)
