"""Whether a checkpoint may be continued with a recipe: what was drawn already must not change."""

from pathlib import Path

from mmbert.checkpoint.format import RunState
from mmbert.errors import UserError
from mmbert.recipe import Recipe, parse_recipe
from mmbert.schedule import training_plan

# What decides which rows are drawn, and what the weights mean: with another value a checkpoint
# would continue as something else. Of the phases only those already begun count.
_FIXED = ("seed", "data", "tokenizer")
_FIXED_BATCH = ("row_tokens", "quantum")
_FIXED_PHASE = ("name", "tokens", "context", "languages", "temperature", "mask_ratio", "rows")


def check_same_run(recipe: Recipe, state: RunState, checkpoint: Path) -> None:
    """Refuse to continue a checkpoint as another run.

    Learning rates, phases still to come, logging and the grid may change; what was already drawn
    from the data may not.

    Raises:
        UserError: names the first key that differs.
    """
    before = parse_recipe(state.recipe, origin=f"{checkpoint}/recipe.yaml")
    for key in _FIXED:
        _same(key, getattr(before, key), getattr(recipe, key), checkpoint)
    for key in _FIXED_BATCH:
        _same(f"batch.{key}", getattr(before.batch, key), getattr(recipe.batch, key), checkpoint)
    for index, phase in enumerate(training_plan(before).phases):
        if phase.first_step > state.step or (phase.first_step == state.step and index):
            break
        if index >= len(recipe.phases):
            _same("phases", phase.name, "nothing", checkpoint)
        old, new = before.phases[index], recipe.phases[index]
        for key in _FIXED_PHASE:
            where = f"phases.{phase.name}.{key}"
            _same(where, getattr(old, key), getattr(new, key), checkpoint)


def _same(key: str, before: object, now: object, checkpoint: Path) -> None:
    if before != now:
        raise UserError(
            f"{checkpoint} was trained with {key} {before}, the recipe now says {now}",
            remedy=f"set {key} back, or begin a new run in another --output",
        )
