"""A run resumes with a recipe that would have drawn the same data, and with its own tokenizer."""

import json
from pathlib import Path

import pytest

from mmbert.checkpoint.format import RunState
from mmbert.checkpoint.resume_check import check_same_run
from mmbert.data.shards.tokenizer_description import (
    read_tokenizer_description,
    write_tokenizer_description,
)
from mmbert.errors import UserError
from mmbert.recipe import Recipe, dump_recipe, override_recipe
from mmbert.schedule import training_plan
from mmbert.training.run_folder import set_up_run_folder
from tests.support.corpora import write_corpus
from tests.support.recipes import phase, small_recipe
from tests.support.tokenizers import byte_level_tokenizer, save_tokenizer

RECIPE = small_recipe(phase("a", 12_288), phase("b", 12_288))


RECIPE_STEPS = training_plan(RECIPE).steps


def check(before: Recipe, now: Recipe, step: int = 1) -> None:
    state = RunState(step=step, tokens=0, phase="a", recipe=dump_recipe(before))
    check_same_run(now, state, Path("run/checkpoints/step-00000001"))


def test_a_moved_tokenizer_folder_resumes(tmp_path: Path) -> None:
    """The run and its checkpoint contain the path of the old folder."""
    old, new = (
        override_recipe(RECIPE, {"tokenizer.path": f"/{folder}/tokenizer"})
        for folder in ("before", "moved")
    )
    check(old, new)
    corpus = write_corpus(tmp_path / "shards", {"web": {"aaa_Latn": [50] * 60}}, contexts=[64])
    for recipe in (old, new):
        set_up_run_folder(tmp_path / "run", recipe, corpus)


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    """The run's copy and the shards' tokenizer are compared, not the paths."""
    corpus = write_corpus(tmp_path / "shards", {"web": {"aaa_Latn": [50] * 60}}, contexts=[64])
    run = tmp_path / "run"
    set_up_run_folder(run, RECIPE, corpus)
    description = read_tokenizer_description(run / "tokenizer")
    other = description.model_copy(update={"fingerprint": "0" * 64})
    write_tokenizer_description(run / "tokenizer", other)
    with pytest.raises(UserError, match="another tokenizer"):
        set_up_run_folder(run, RECIPE, corpus)
    for folder in (run / "tokenizer", corpus.tokenizer_folder):
        save_tokenizer(folder, byte_level_tokenizer())
    own = json.loads((run / "tokenizer" / "tokenizer.json").read_text())
    (run / "tokenizer" / "tokenizer.json").write_text(json.dumps(own, indent=2))
    set_up_run_folder(run, RECIPE, corpus)  # saved by another version
    own["normalizer"] = {"type": "Lowercase"}
    (run / "tokenizer" / "tokenizer.json").write_text(json.dumps(own))
    with pytest.raises(UserError, match="another tokenizer"):
        set_up_run_folder(run, RECIPE, corpus)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("seed", 4, "seed=21, the recipe has seed=4"),
        ("batch.row_tokens", 1024, "batch.row_tokens=512, the recipe has batch.row_tokens=1024"),
        ("phases.a.mask_ratio", 0.2, "phases.a.mask_ratio=0.3, the recipe has"),
        (
            *("phases.a.mask_ratio", {"low": 0.2, "high": 0.4}),
            "phases.a.mask_ratio=0.3, the recipe has phases.a.mask_ratio=0.2 to 0.4",
        ),
        ("batch.rows", 6, "batch.rows=12, the recipe has batch.rows=6"),
        ("batch.growth", {"tokens": 4096, "from_rows": 6}, "batch.growth=None, the recipe has"),
        ("model.local_window", 8, "model.local_window=.*, the recipe has model.local_window=8"),
        ("model.num_attention_heads", 2, "model.num_attention_heads=4, the recipe has"),
        ("model.norm_eps", 1e-6, "model.norm_eps=1e-05, the recipe has model.norm_eps=1e-06"),
    ],
)
def test_other_data_is_refused(key: str, value: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(RECIPE, override_recipe(RECIPE, {key: value}))


def test_later_phases_may_change() -> None:
    changed = override_recipe(RECIPE, {"phases.b.mask_ratio": 0.2})
    check(RECIPE, changed)
    with pytest.raises(UserError, match=r"phases\.b\.mask_ratio"):
        check(RECIPE, changed, step=3)


def test_rows_may_change_where_no_step_of_the_phase_is_done() -> None:
    """Another default of the rows leaves phases with rows of their own as they were."""
    own = override_recipe(RECIPE, {"phases.a.rows": RECIPE.batch.rows})
    changed = override_recipe(own, {"batch.rows": 2 * RECIPE.batch.rows})
    check(own, changed)
    with pytest.raises(UserError, match=r"batch\.rows"):
        check(own, changed, step=RECIPE_STEPS)


def test_a_phase_that_was_trained_may_not_be_dropped() -> None:
    with pytest.raises(UserError, match="the recipe lacks its phase 'b'"):
        check(RECIPE, small_recipe(phase("a", 12_288)), step=RECIPE_STEPS)
