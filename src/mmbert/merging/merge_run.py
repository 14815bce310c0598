"""Merging of a run by its recipe: its finished variants, or the checkpoints of its last phase."""

from collections.abc import Callable, Sequence
from pathlib import Path

from mmbert.checkpoint.format import INDEX_NAME, Index
from mmbert.checkpoint.store import CheckpointStore
from mmbert.errors import CheckpointError, RecipeError
from mmbert.hub.export import Dtype
from mmbert.hub.verification import LogitComparison
from mmbert.merging.merge import MergeOptions, merge_models
from mmbert.recipe import MergeSettings, Recipe, parse_recipe
from mmbert.schedule import training_plan

MAIN = "main"
"""Name of the run itself among the variants of a recipe's merge."""


def merge_run(
    run: Path,
    out: Path,
    *,
    dtype: Dtype = "float32",
    say: Callable[[str], None] = lambda line: None,
    allow_causal: bool = False,
) -> LogitComparison:
    """Merge the run in folder `run` into the folder `out`, as its recipe's `merge` specifies.

    Methods ties and linear merge the final checkpoints of `merge.variants` (`main` is the run
    itself); the base of ties is the checkpoint they branched from. Method ema averages the kept
    checkpoints of the last phase. `allow_causal`: see `merge_models`.

    Raises:
        UserError: no run, no `merge` in the recipe, an unfinished variant, variants of different
            branches, or fewer than two checkpoints.
    """
    recipe = _recipe(run)
    settings = recipe.merge
    if settings is None:
        raise RecipeError(
            f"the recipe of {run} has no `merge`",
            remedy="give models and method: mmbert merge A B … --method …",
        )
    options = MergeOptions(settings.method, settings.weights, settings.density, settings.decay)
    if settings.method == "ema":
        models = _last_phase_checkpoints(run, recipe)
        return merge_models(models, out, options, dtype=dtype, say=say, allow_causal=allow_causal)
    ends = [_final_checkpoint(run, name) for name in settings.variants]
    base = _branch_checkpoint(run, recipe, settings) if settings.method == "ties" else None
    return merge_models(
        ends, out, options, base=base, dtype=dtype, say=say, allow_causal=allow_causal
    )


def checkpoints_to_average(models: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Select the checkpoints of the last phase among those of a run, for method ema.

    Args:
        models: checkpoints, or a single run folder for all that it keeps. Hugging Face folders
            have no phase and are all selected.

    Returns:
        The selected paths, and a note for each checkpoint of an earlier phase.
    """
    if len(models) == 1 and (models[0] / "checkpoints").is_dir():
        models = CheckpointStore(models[0] / "checkpoints").list()
    states = {path: Index.read(path).state for path in models if (path / INDEX_NAME).is_file()}
    if not states:
        return list(models), []
    last = max(states.values(), key=lambda state: state.step).phase
    earlier = [path for path, state in states.items() if state.phase != last]
    notes = [
        f"left out {path}: it is of phase {states[path].phase}, not {last}" for path in earlier
    ]
    return [path for path in models if path not in earlier], notes


def _recipe(run: Path) -> Recipe:
    checkpoints = CheckpointStore(run / "checkpoints").list()
    if not checkpoints:
        raise CheckpointError(f"{run} has no checkpoints", remedy="give the folder of a run")
    newest = Index.read(checkpoints[-1])
    return parse_recipe(newest.state.recipe, origin=f"the recipe in {checkpoints[-1]}")


def _final_checkpoint(run: Path, name: str) -> Path:
    """Return the last checkpoint of a variant. Raises UserError if its training is unfinished."""
    folder = run if name == MAIN else run / "variants" / name
    checkpoints = CheckpointStore(folder / "checkpoints").list()
    remedy = f"finish its training first (python -m mmbert.pretrain … --output {run}" + (
        ")" if name == MAIN else f" --variant {name})"
    )
    if not checkpoints:
        raise CheckpointError(f"{folder} has no checkpoints", remedy=remedy)
    state = Index.read(checkpoints[-1]).state
    steps = training_plan(parse_recipe(state.recipe)).steps
    if state.step < steps:
        raise CheckpointError(
            f"{folder} is unfinished (step {state.step} of {steps})", remedy=remedy
        )
    return checkpoints[-1]


def _branch_checkpoint(run: Path, recipe: Recipe, settings: MergeSettings) -> Path:
    """Return the run's checkpoint from which all merged variants branched."""
    phases = {v.branch_from for v in recipe.variants if v.name in settings.variants}
    if len(phases) != 1:
        raise RecipeError(
            f"the merged variants branch from {len(phases)} different phases",
            remedy="merge variants of the same phase, or give models and base explicitly",
        )
    (phase,) = phases
    step = next(plan.end_step for plan in training_plan(recipe).phases if plan.name == phase)
    for path in CheckpointStore(run / "checkpoints").list():
        if Index.read(path).state.step == step:
            return path
    raise CheckpointError(
        f"{run} has no checkpoint of step {step}, the end of phase {phase}",
        remedy="restore it from a copy: training never deletes phase ends",
    )


def _last_phase_checkpoints(run: Path, recipe: Recipe) -> list[Path]:
    """Return the kept checkpoints of the recipe's last phase, oldest first."""
    last = recipe.phases[-1].name
    found = [
        path
        for path in CheckpointStore(run / "checkpoints").list()
        if Index.read(path).state.phase == last
    ]
    if len(found) < 2:
        raise CheckpointError(
            f"{run} has only {len(found)} checkpoints of phase {last}; an average needs two",
            remedy="raise checkpoint.keep_last, or set checkpoint.keep_every",
        )
    return found
