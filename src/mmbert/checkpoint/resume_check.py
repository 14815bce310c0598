"""Check on resuming that the recipe draws the same training data, with an optimizer that fits."""

from pathlib import Path

from mmbert.checkpoint.format import RunState
from mmbert.errors import ResumeError
from mmbert.recipe import Recipe, parse_recipe
from mmbert.recipe.optimizers import MATRIX_OPTIMIZERS
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

    Learning rates, future phases, logging and the grid may change; the data drawn so far may not,
    and the optimizer may at the end of a phase (`check_optimizer`).

    Raises:
        ResumeError: names the first key that differs.
    """
    before = parse_recipe(state.recipe, origin=f"{checkpoint}/recipe.yaml")
    _check_optimizer(before, recipe, state, checkpoint)
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


def check_optimizer(recipe: Recipe, state: RunState, checkpoint: Path) -> None:
    """Verify that the recipe's optimizer may continue from the states in the checkpoint.

    Another one may at the end of a phase. Muon's average continues StableAdamW's `exp_avg` and the
    reverse; states that the other did not keep begin at 0. StableAdamW counts steps from the run's
    start, so that the squares of gradients have no bias correction when they begin anew: with
    v = (1 - beta2^k) g² after k steps, the step would be 1 / sqrt(1 - beta2^k) times too large, and
    just that is the RMS of g² / v by which StableAdamW divides it. AdamW does not.

    Raises:
        ResumeError: names both optimizers.
    """
    before = parse_recipe(state.recipe, origin=f"{checkpoint}/recipe.yaml")
    _check_optimizer(before, recipe, state, checkpoint)


def _check_optimizer(before: Recipe, now: Recipe, state: RunState, checkpoint: Path) -> None:
    old, new = before.optimizer.name, now.optimizer.name
    if old == new:
        return
    found = (
        f"cannot resume {checkpoint}: it was trained with optimizer.name={old}, the recipe has "
        f"optimizer.name={new}"
    )
    if not state.phase_end:
        raise ResumeError(
            f"{found}, and it is not the end of a phase",
            remedy=f"set optimizer.name back to {old}; to change it at the end of a phase, move "
            "later checkpoints away, or branch a variant there (variants[].overrides)",
        )
    if old in MATRIX_OPTIMIZERS and new == "adamw":
        raise ResumeError(
            f"{found}, which would take too large steps without the exp_avg_sq of matrices, which "
            f"{old} does not keep",
            remedy=f"set optimizer.name to stable_adamw, whose steps are limited, or back to {old}",
        )


def _check_equal(key: str, before: object, now: object, checkpoint: Path) -> None:
    if before != now:
        raise ResumeError(
            f"cannot resume {checkpoint}: it was trained with {key}={before}, the recipe has "
            f"{key}={now}",
            remedy=f"set {key} back, or start a new run in another --output",
        )
