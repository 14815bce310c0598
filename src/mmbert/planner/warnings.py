"""Warnings about an estimate: infeasible settings and likely mistakes."""

from collections.abc import Iterator, Sequence

from mmbert.checkpoint.imported_start import find_imported_start
from mmbert.data.sampling.mixture_weights import ComponentSize
from mmbert.data.sampling.recipe_warnings import recipe_warnings
from mmbert.errors import UserError
from mmbert.model.initial_checkpoint import InitialCheckpoint
from mmbert.planner.estimate import ParallelLayout, PhaseCost
from mmbert.planner.languages import LanguageTable
from mmbert.recipe import Recipe
from mmbert.schedule import training_plan

# Minimum communication time for a warning; shorter times only occur with small models.
MIN_COMMUNICATION_SECONDS = 0.02


def find_warnings(
    recipe: Recipe,
    phases: Sequence[PhaseCost],
    layouts: Sequence[ParallelLayout],
    languages: LanguageTable | None,
    sizes: Sequence[ComponentSize] | None = None,
) -> Iterator[str]:
    """Yield one sentence per problem: of the GPUs, then of the recipe and the shards' `sizes`.

    The run prints those of the recipe too.
    """
    chosen = next((layout for layout in layouts if layout.chosen), None)
    if chosen is not None and not chosen.fits:
        better = next((layout for layout in layouts if layout.fits), None)
        remedy = (
            f"parallel.tensor={better.tensor} parallel.zero_stage={better.zero_stage} would fit"
            if better is not None
            else "no layout fits: reduce batch.row_tokens, set model.recompute, or use larger or"
            " more GPUs"
        )
        yield f"the recipe's layout does not fit into GPU memory; {remedy}"
    for phase in phases:
        name = phase.steps.name
        slow = phase.communication.seconds > max(phase.compute_seconds, MIN_COMMUNICATION_SECONDS)
        if slow:
            yield (
                f"phase {name}: communication ({phase.communication.seconds:.2g} s per step) takes"
                f" longer than compute ({phase.compute_seconds:.2g} s); use fewer GPUs, more rows"
                " per step, or a lower ZeRO stage"
            )
    yield from recipe_warnings(
        recipe,
        training_plan(recipe),
        sizes,
        None if languages is None else dict(languages.most_repeated()),
    )
    yield from _initial_checkpoint(recipe)


def _initial_checkpoint(recipe: Recipe) -> Iterator[str]:
    """Yield differences between the recipe and its initial checkpoint."""
    if recipe.initial_checkpoint is None:
        return
    if not (recipe.initial_checkpoint / "config.json").is_file():
        yield f"{recipe.initial_checkpoint} does not exist yet; create it with `mmbert import`"
        return
    try:
        given = InitialCheckpoint(recipe.initial_checkpoint)
        given.check_model(recipe.model)
        plan = training_plan(recipe)
        start = find_imported_start(recipe, plan)
    except UserError as error:
        yield f"{error.message}; {error.remedy}"
        return
    if start is None:
        yield from given.rotary_differences(recipe.phases[0].rotary_bases)
        return
    phase = recipe.phases[plan.at(start.step).phase_index]
    yield (
        f"the run starts at step {start.step:,} of {plan.steps:,} (phase '{phase.name}') from the"
        f" state in {start.folder}; time and cost above are those of all steps"
    )
    yield from given.rotary_differences(phase.rotary_bases, f"phase '{phase.name}'")
    yield from start.warnings
