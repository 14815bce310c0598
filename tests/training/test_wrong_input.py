"""Wrong input: status 2 on every rank and one message with a remedy; the output of --dry-run."""

import io
import re
import shutil
from pathlib import Path

import pytest

from mmbert.errors import UserError
from mmbert.training.run_config import RunOptions, print_plan, resolve_run_config, variant_recipe
from tests.support.job_processes import output_of, run_to_the_end
from tests.support.small_run import options_for


def test_a_mistake_that_all_ranks_meet_is_output_once(inputs: Path, tmp_path: Path) -> None:
    options = options_for(inputs, tmp_path / "run", "phases.decay.mask_ratoi=0.1")
    assert run_to_the_end(options) == [2, 2]
    output = output_of(options)
    assert output.count("did you mean 'mask_ratio'") == 1
    assert "Traceback" not in output
    assert not options.output.exists()


def test_a_changed_recipe_is_refused_where_it_would_be_another_run(
    inputs: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    options = options_for(inputs, run, "phases.pretrain.mask_ratio=0.2")
    assert run_to_the_end(options) == [2, 2]
    output = output_of(options)
    key = "phases.pretrain.mask_ratio"
    assert output.count(f"trained with {key}=0.3, the recipe has {key}=0.2") == 1
    assert "another --output" in output


@pytest.mark.parametrize(
    ("overrides", "world_size", "message"),
    [
        ((), 3, "divisible by the data-parallel size (3 = 3 processes / parallel.tensor 1)"),
        (
            ("parallel.tensor=2",),
            3,
            "parallel.tensor (2) does not divide",
        ),
        (("model.vocab_size=300",), 1, "model.vocab_size is 300"),
        (("parallel.tensor=4",), 4, "must be divisible by parallel.tensor (4)"),
    ],
)
def test_what_does_not_divide_is_refused_before_anything_starts(
    inputs: Path, tmp_path: Path, overrides: tuple[str, ...], world_size: int, message: str
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        resolve_run_config(options_for(inputs, tmp_path / "run", *overrides), world_size)


def test_missing_shards_are_named(inputs: Path, tmp_path: Path) -> None:
    options = RunOptions(inputs / "recipe.yaml", tmp_path / "nothing", tmp_path / "run")
    with pytest.raises(UserError, match="does not exist"):
        resolve_run_config(options, 1)


def test_an_unknown_phase_or_variant_is_refused_with_the_known_ones(
    inputs: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="unknown phase 'decya'") as error:
        resolve_run_config(options_for(inputs, tmp_path, stop_after_phase="decya"), 1)
    assert "pretrain, extension, decay" in error.value.remedy
    with pytest.raises(UserError, match="no variant 'french'") as error:
        resolve_run_config(options_for(inputs, tmp_path, variant="french"), 1)
    assert "english" in error.value.remedy


def test_a_variant_may_change_only_what_comes_after_its_branch(
    inputs: Path, tmp_path: Path
) -> None:
    recipe = resolve_run_config(options_for(inputs, tmp_path), 1).recipe
    changed, step = variant_recipe(recipe, "english")
    assert step == 16
    assert changed.phases[:2] == recipe.phases[:2]
    variant = recipe.variants[0].model_copy(update={"overrides": {"phases.pretrain.tokens": "9k"}})
    with pytest.raises(UserError, match="precedes its branch"):
        variant_recipe(recipe.model_copy(update={"variants": (variant,)}), "english")


def test_the_dry_run_prints_the_resolved_recipe_and_the_plan(inputs: Path, tmp_path: Path) -> None:
    text = io.StringIO()
    overrides = ("optimizer.learning_rate=1e-3", "phases.decay.dropout=0.05")
    run_config = resolve_run_config(options_for(inputs, tmp_path, *overrides), 2)
    print_plan(run_config, 2, text)
    assert "learning_rate: 0.001" in text.getvalue()
    assert "# 2 processes: 2 data ranks × 1 tensor ranks, ZeRO 1" in text.getvalue()
    assert "# 22 steps, 22.5k tokens" in text.getvalue()
    lines = [line for line in text.getvalue().splitlines() if "# warning" not in line]
    *_, extension, decay, of_decay = lines
    assert decay.startswith("# decay: steps 16 to 21")
    assert "dropout 0.1," in extension
    assert "dropout 0.05," in of_decay
    assert not (tmp_path / "run").exists()
