"""Merging a run as its own recipe says: its finished variants, or its last phase's checkpoints."""

from pathlib import Path

from mmbert.checkpoint.format import Index
from mmbert.checkpoint.store import CheckpointStore
from mmbert.errors import UserError
from mmbert.hub.export import Dtype
from mmbert.hub.verification import LogitComparison
from mmbert.merging.merge import MergeOptions, merge_models
from mmbert.recipe import MergeSettings, Recipe, parse_recipe
from mmbert.schedule import training_plan

MAIN = "main"
"""What a recipe's merge calls the run itself, beside its variants."""


def merge_run(run: Path, out: Path, *, dtype: Dtype = "float32") -> LogitComparison:
    """Merge what the run in the folder `run` and its variants have trained into the folder `out`.

    With method ties or linear: the ends of the variants that the recipe's `merge.variants` names
    (`main` is the run itself), ties onto the checkpoint that they branched from. With ema: the
    kept checkpoints of the last phase. UserError: no run, a recipe without `merge`, a variant that
    has not finished, variants of different branches, one checkpoint only.
    """
    recipe = _recipe(run)
    settings = recipe.merge
    if settings is None:
        raise UserError(
            f"the recipe of {run} has no `merge`",
            remedy="name the models and the method: mmbert merge A B … --method …",
        )
    options = MergeOptions(settings.method, settings.weights, settings.density, settings.decay)
    if settings.method == "ema":
        return merge_models(_last_phase_checkpoints(run, recipe), out, options, dtype=dtype)
    ends = [_final_checkpoint(run, name) for name in settings.variants]
    base = _branch_checkpoint(run, recipe, settings) if settings.method == "ties" else None
    return merge_models(ends, out, options, base=base, dtype=dtype)


def _recipe(run: Path) -> Recipe:
    checkpoints = CheckpointStore(run / "checkpoints").list()
    if not checkpoints:
        raise UserError(f"{run} holds no checkpoints", remedy="name a run's folder")
    newest = Index.read(checkpoints[-1])
    return parse_recipe(newest.state.recipe, origin=f"the recipe in {checkpoints[-1]}")


def _final_checkpoint(run: Path, name: str) -> Path:
    """The last checkpoint of a variant; UserError unless its training has finished."""
    folder = run if name == MAIN else run / "variants" / name
    checkpoints = CheckpointStore(folder / "checkpoints").list()
    remedy = f"train it to its end first (python -m mmbert.pretrain … --output {run}" + (
        ")" if name == MAIN else f" --variant {name})"
    )
    if not checkpoints:
        raise UserError(f"{folder} holds no checkpoints", remedy=remedy)
    state = Index.read(checkpoints[-1]).state
    steps = training_plan(parse_recipe(state.recipe)).steps
    if state.step < steps:
        raise UserError(f"{folder} is at step {state.step} of {steps}", remedy=remedy)
    return checkpoints[-1]


def _branch_checkpoint(run: Path, recipe: Recipe, settings: MergeSettings) -> Path:
    """The run's checkpoint at the end of the one phase that all merged variants branched from."""
    phases = {v.branch_from for v in recipe.variants if v.name in settings.variants}
    if len(phases) != 1:
        raise UserError(
            f"the merged variants branch from {len(phases)} different phases",
            remedy="merge variants of one phase, or name models and base yourself",
        )
    (phase,) = phases
    step = next(plan.end_step for plan in training_plan(recipe).phases if plan.name == phase)
    for path in CheckpointStore(run / "checkpoints").list():
        if Index.read(path).state.step == step:
            return path
    raise UserError(
        f"{run} holds no checkpoint of step {step}, the end of phase {phase}",
        remedy="phase ends are kept by themselves; restore it from a copy",
    )


def _last_phase_checkpoints(run: Path, recipe: Recipe) -> list[Path]:
    """The kept checkpoints of the recipe's last phase, oldest first."""
    last = recipe.phases[-1].name
    found = [
        path
        for path in CheckpointStore(run / "checkpoints").list()
        if Index.read(path).state.phase == last
    ]
    if len(found) < 2:
        raise UserError(
            f"{run} keeps {len(found)} checkpoints of phase {last}; an average needs two",
            remedy="raise checkpoint.keep_last, or set checkpoint.keep_every",
        )
    return found
