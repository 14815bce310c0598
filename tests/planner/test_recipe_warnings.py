"""Warnings about a recipe: the same sentences from plan, dry run and run, kept in the log."""

import io
import os
from pathlib import Path

import pytest

from mmbert.data.sampling.recipe_warnings import recipe_warnings
from mmbert.errors import SamplingError
from mmbert.planner import estimate
from mmbert.recipe import Recipe, load_recipe
from mmbert.recipe.named import recipe_names
from mmbert.schedule import training_plan
from mmbert.training.run_config import print_plan, resolve_run_config
from tests.support import small_run
from tests.support.job_processes import run_to_the_end
from tests.support.json_lines import records
from tests.support.small_run import options_for

SLIPS = (
    "phases.pretrain.languages=[eng_Latn, swh_Latn]",
    "phases.pretrain.learning_rate.warmup=1M",
)
MISSING = "phases.pretrain names swh_Latn, which no source holds; nearest: swa_Latn"
WARM_UP = "phase pretrain ends during its learning-rate warm-up: warmup 1M, phase 10k"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run.write_inputs(tmp_path_factory.mktemp("inputs"))


def _recipe(inputs: Path, *overrides: str) -> Recipe:
    return load_recipe(inputs / "recipe.yaml", overrides)


def _warnings(inputs: Path, *overrides: str) -> list[str]:
    recipe = _recipe(inputs, *overrides)
    return list(recipe_warnings(recipe, training_plan(recipe)))


def test_plan_dry_run_and_run_say_the_same(inputs: Path, tmp_path: Path) -> None:
    planned = estimate(_recipe(inputs, *SLIPS), gpus=1, shards=inputs / "shards").warnings
    assert {MISSING, WARM_UP} <= set(planned)
    options = options_for(inputs, tmp_path / "run", *SLIPS, stop_after_phase="pretrain")
    dry = io.StringIO()
    print_plan(resolve_run_config(options, 1), 1, dry)
    assert run_to_the_end(options, world_size=1) == [0]
    logged = [line["text"] for line in records(options.output / "log.jsonl") if "text" in line]
    for warning in planned:
        assert f"# warning: {warning}\n" in dry.getvalue()
        assert f"warning: {warning}" in logged


def test_many_missing_languages_are_counted(inputs: Path) -> None:
    names = ["eng", "deu_Latn", *(f"q{letter}{letter}" for letter in "abcdefgh")]
    recipe = _recipe(inputs, f"phases.pretrain.languages={names}")
    warnings = estimate(recipe, gpus=1, shards=inputs / "shards").warnings
    (warning,) = (warning for warning in warnings if "no source" in warning)
    assert "phases.pretrain names 8 languages of 10 that no source holds: qaa" in warning
    assert warning.endswith(", …")


def test_a_phase_none_of_whose_languages_exist_is_an_error(inputs: Path, tmp_path: Path) -> None:
    options = options_for(inputs, tmp_path, "phases.pretrain.languages=[swh_Latn]")
    with pytest.raises(SamplingError, match=r"none of the 5 .* names swh_Latn") as error:
        resolve_run_config(options, 1)
    assert "swa_Latn" in error.value.remedy


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ("batch.growth={tokens: 1k, from_rows: 4} batch.rows=4", "batch.growth has no effect"),
        ("batch.growth={tokens: 1M, from_rows: 4} batch.rows=8", "during the batch-size warm-up"),
        ("batch.growth={tokens: 1k, from_rows: 4} batch.rows=12", "takes 3072 tokens instead of"),
        ("phases.decay.learning_rate.decay_tokens=1M", "too short for its learning-rate decay"),
        ("phases.pretrain.learning_rate.final=0.5", "learning_rate.final has no effect"),
        ("optimizer.learning_rate=1e30", "learning rate of 1e+30"),
        ("checkpoint.every_tokens=null", "no checkpoint interval is set"),
    ],
)
def test_what_a_recipe_cannot_mean(inputs: Path, overrides: str, expected: str) -> None:
    given = overrides.replace(" batch.rows", os.linesep + "batch.rows").splitlines()
    assert any(expected in warning for warning in _warnings(inputs, *given))
    assert not any(expected in warning for warning in _warnings(inputs))


USUAL_ADAMW = "usual for AdamW and StableAdamW is 1e-05 to 0.003 (BERT 1e-4"
USUAL_EMBEDDING = "usual for AdamW and StableAdamW outside the matrices is 1e-05 to 0.016 (as of"
USUAL_MATCHED = "usual for Muon and NorMuon with scale match_rms is 0.0001 to 0.01 (as AdamW's by"
USUAL_ORIGINAL = "usual for Muon with scale original is 0.002 to 0.1 (0.02"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        # Muon's rate in AdamW, and the reverse.
        ("optimizer.learning_rate=0.02", USUAL_ADAMW),
        ("optimizer.learning_rate=0.02", "0.02 would be usual for Muon with scale original"),
        ("optimizer.group_learning_rates.matrices=5e-3", USUAL_ADAMW),
        ("optimizer.name=muon optimizer.muon.scale=original", None),  # 3e-3
        ("optimizer.name=muon optimizer.muon.scale=original optimizer.learning_rate=8e-4",
         USUAL_ORIGINAL),
        ("optimizer.name=muon optimizer.muon.scale=original optimizer.learning_rate=8e-4",
         "0.0008 would be usual for AdamW and StableAdamW"),
        ("optimizer.name=muon optimizer.group_learning_rates.matrices=0.02", USUAL_MATCHED),
        ("optimizer.name=normuon optimizer.group_learning_rates.matrices=0.02", USUAL_MATCHED),
        ("optimizer.name=normuon optimizer.group_learning_rates.matrices=5e-3", None),
        # StableAdamW has the embedding, whatever the matrices have.
        ("optimizer.name=muon optimizer.muon.scale=original optimizer.learning_rate=0.02",
         "of embedding, rest is 0.02 in phases pretrain, extension, decay; " + USUAL_EMBEDDING),
        ("optimizer.group_learning_rates.embedding=0.016", None),
        ("phases.decay.learning_rate.peak=1e-6",
         "of matrices is 1e-06 in phase decay; " + USUAL_ADAMW),
        ("phases.decay.learning_rate.peak=1e-6",
         "of embedding, rest is 1e-06 in phase decay; " + USUAL_EMBEDDING),
    ],
)  # fmt: skip
def test_rates_of_another_optimizer_are_named(
    inputs: Path, overrides: str, expected: str | None
) -> None:
    found = [w for w in _warnings(inputs, *overrides.split()) if "peak learning rate" in w]
    if expected is None:
        assert not found
    else:
        assert any(expected in warning for warning in found), found


@pytest.mark.parametrize("name", recipe_names())
def test_the_rates_of_packaged_recipes_are_usual(name: str) -> None:
    recipe = load_recipe(name)
    warnings = recipe_warnings(recipe, training_plan(recipe))
    assert not any("peak learning rate" in warning for warning in warnings)


def test_a_run_that_ends_causal_is_warned_of(inputs: Path) -> None:
    keys = ("objective=causal", "mask_ratio=null", "predicted_share=0.2")
    names = ("pretrain", "extension", "decay")
    overrides = [f"phases.{name}.{key}" for name in names for key in keys]
    expected = "phase decay is causal and the last one"
    assert any(expected in warning for warning in _warnings(inputs, *overrides))
    assert not any("causal" in warning for warning in _warnings(inputs, *overrides[:6]))


def test_growth_that_goes_as_written_is_not_mentioned(inputs: Path) -> None:
    growth = "batch.growth={tokens: 3k, from_rows: 4}"
    assert not any("batch" in warning for warning in _warnings(inputs, growth, "batch.rows=12"))
