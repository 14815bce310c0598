"""Check on resuming that the recipe draws the same training data as the checkpoint."""

from pathlib import Path

from mmbert.checkpoint.format import RunState
from mmbert.errors import ResumeError
from mmbert.recipe import Recipe, parse_recipe
from mmbert.schedule import training_plan

# Keys that determine the rows and their contents, besides the seed and `data`; phase keys are
# compared for started phases only.
# The tokenizer's path may change, since folders move: a run folder has a copy of its tokenizer, and
# training compares the copy's fingerprint with the shards'.
_FIXED_BATCH = ("row_tokens", "quantum")
# The weights keep their shapes under other values of these, but compute another function.
_FIXED_MODEL = ("num_attention_heads", "local_window", "global_attention_every", "norm_eps")
_FIXED_PHASE = (
    *("name", "tokens", "context", "languages", "temperature", "rows"),
    *("objective", "mask_ratio", "predicted_share"),
)


def check_same_run(recipe: Recipe, state: RunState, checkpoint: Path) -> None:
    """Verify that `recipe` may resume the checkpoint.

    Learning rates, future phases, logging and the grid may change; the data drawn so far may not.

    Raises:
        ResumeError: names the first key that differs.
    """
    before = parse_recipe(state.recipe, origin=f"{checkpoint}/recipe.yaml")
    _check_equal("seed", before.seed, recipe.seed, checkpoint)
    _check_equal("data", before.data.without_place(), recipe.data.without_place(), checkpoint)
    for key in _FIXED_BATCH:
        old_value, new_value = getattr(before.batch, key), getattr(recipe.batch, key)
        _check_equal(f"batch.{key}", old_value, new_value, checkpoint)
    for key in _FIXED_MODEL:
        _check_equal(
            f"model.{key}", getattr(before.model, key), getattr(recipe.model, key), checkpoint
        )
    plan = training_plan(recipe)
    for index, phase in enumerate(training_plan(before).phases):
        if phase.first_step > state.step or (phase.first_step == state.step and index):
            break
        if index >= len(recipe.phases):
            raise ResumeError(
                f"cannot resume {checkpoint}: the recipe lacks its phase {phase.name!r}",
                remedy="restore the phase, or start a new run in another --output",
            )
        old, new = before.phases[index], recipe.phases[index]
        for key in _FIXED_PHASE:
            where = f"phases.{phase.name}.{key}"
            _check_equal(where, getattr(old, key), getattr(new, key), checkpoint)
        if phase.stages != plan.phases[index].stages:
            # Steps are counted, so other rows a step would end the phase with other tokens.
            key = "rows" if before.batch.rows != recipe.batch.rows else "growth"
            old_value, new_value = getattr(before.batch, key), getattr(recipe.batch, key)
            _check_equal(f"batch.{key}", old_value, new_value, checkpoint)


def _check_equal(key: str, before: object, now: object, checkpoint: Path) -> None:
    if before != now:
        raise ResumeError(
            f"cannot resume {checkpoint}: it was trained with {key}={before}, the recipe has "
            f"{key}={now}",
            remedy=f"set {key} back, or start a new run in another --output",
        )
