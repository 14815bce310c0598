"""What in a plan deserves a second look before GPU-hours are spent."""

from collections.abc import Iterator, Sequence

from mmbert.errors import UserError
from mmbert.model.initial_checkpoint import InitialCheckpoint
from mmbert.planner.estimate import ParallelLayout, PhaseCost
from mmbert.planner.languages import LanguageTable
from mmbert.recipe import Recipe

# mmBERT's stated aim was at most about five passes over any language's text.
MAX_EPOCHS = 5.0
# A model so small that both take milliseconds is not bound by either.
MIN_COMMUNICATION_SECONDS = 0.02
MIN_STEPS = 10


def find_warnings(
    recipe: Recipe,
    phases: Sequence[PhaseCost],
    layouts: Sequence[ParallelLayout],
    languages: LanguageTable | None,
) -> Iterator[str]:
    """One sentence for each thing that will not work, or probably is not meant."""
    chosen = next((layout for layout in layouts if layout.chosen), None)
    if chosen is not None and not chosen.fits:
        better = next((layout for layout in layouts if layout.fits), None)
        remedy = (
            f"parallel.tensor={better.tensor} parallel.zero_stage={better.zero_stage} would fit"
            if better is not None
            else "no layout fits: make batch.row_tokens smaller, set model.recompute, or take"
            " larger or more GPUs"
        )
        yield f"the recipe's own layout does not fit the GPU's memory; {remedy}"
    for phase in phases:
        name = phase.steps.name
        slow = phase.communication.seconds > max(phase.compute_seconds, MIN_COMMUNICATION_SECONDS)
        if slow:
            yield (
                f"phase {name}: communication ({phase.communication.seconds:.2g} s a step) takes"
                f" longer than arithmetic ({phase.compute_seconds:.2g} s); use fewer GPUs, more"
                " rows a step, or a lower ZeRO stage"
            )
        if phase.steps.steps < MIN_STEPS:
            yield f"phase {name} has only {phase.steps.steps} steps; are its tokens meant?"
        warmup = recipe.phases[phase.steps.index].learning_rate.warmup
        if warmup >= phase.steps.tokens:
            yield f"phase {name} ends before its learning rate has warmed up"
    if languages is not None:
        repeated = [
            (language, epochs)
            for language, epochs in languages.most_repeated()
            if epochs > MAX_EPOCHS
        ]
        if repeated:
            worst = ", ".join(f"{language} {epochs:.1f}" for language, epochs in repeated[:5])
            yield (
                f"{len(repeated)} languages are passed more than {MAX_EPOCHS:.0f} times"
                f" over the run (most: {worst}); data.sources.*.max_epochs caps that"
            )
    yield from _initial_checkpoint(recipe)
    if recipe.checkpoint.every_tokens is None and recipe.checkpoint.every_minutes is None:
        yield "no checkpoint interval is set: only the end of each phase is saved"


def _initial_checkpoint(recipe: Recipe) -> Iterator[str]:
    """Where the recipe computes something else than the model it starts from."""
    if recipe.initial_checkpoint is None:
        return
    if not (recipe.initial_checkpoint / "config.json").is_file():
        yield f"there is no {recipe.initial_checkpoint} yet: write it with `mmbert import`"
        return
    try:
        given = InitialCheckpoint(recipe.initial_checkpoint)
        given.check_model(recipe.model)
    except UserError as error:
        yield f"{error.message}; {error.remedy}"
        return
    yield from given.rotary_differences(recipe.phases[0].rotary_bases)
