"""What can be known before anything starts: the recipe, the plan, the corpus, and that they fit."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

from mmbert.data.shards.corpus import Corpus, open_corpus
from mmbert.errors import UserError
from mmbert.model.config import EncoderConfig, check_parallel, encoder_config
from mmbert.model.initial_checkpoint import InitialCheckpoint
from mmbert.parallel.process_grid import check_grid
from mmbert.recipe import Recipe, dump_recipe, load_recipe, override_recipe
from mmbert.recipe.division import check_data_ranks
from mmbert.schedule import TrainingPlan, describe_phase_settings, training_plan
from mmbert.training.metrics.loggers.console_logger import format_count


@dataclass(frozen=True)
class RunOptions:
    """What the command line says."""

    recipe: str | Path
    """A recipe's name, or the path of its file."""
    data: Path
    output: Path
    overrides: tuple[str, ...] = ()
    variant: str | None = None
    stop_after_phase: str | None = None
    profile_steps: int = 0

    @property
    def run_folder(self) -> Path:
        """Where this run's own files go: a variant has a folder within the run it branches from."""
        return self.output / "variants" / self.variant if self.variant else self.output


@dataclass(frozen=True)
class RunConfig:
    """The recipe as it will be trained, and what follows from it and the shards."""

    recipe: Recipe
    plan: TrainingPlan
    corpus: Corpus
    encoder: EncoderConfig
    branch_step: int | None = field(default=None)
    """A variant starts from the main run's checkpoint of this step."""
    warnings: tuple[str, ...] = ()
    """What may be meant, but probably is not."""


def resolve_run_config(options: RunOptions, world_size: int) -> RunConfig:
    """Read and check everything that needs no process group.

    Raises:
        UserError: the recipe, the shards or the number of processes do not fit together.
    """
    recipe = load_recipe(options.recipe, options.overrides)
    branch_step = None
    if options.variant is not None:
        recipe, branch_step = variant_recipe(recipe, options.variant)
    if options.stop_after_phase is not None:
        names = [phase.name for phase in recipe.phases]
        if options.stop_after_phase not in names:
            raise UserError(
                f"--stop-after-phase names '{options.stop_after_phase}', which is no phase",
                remedy=f"phases: {', '.join(names)}",
            )
    plan = training_plan(recipe)
    check_grid(world_size=world_size, tensor_parallel=recipe.parallel.tensor)
    check_data_ranks(recipe.batch, recipe.parallel, world_size)
    corpus = open_corpus(options.data)
    encoder, warnings = _encoder(recipe, corpus)
    check_parallel(
        encoder,
        tensor_parallel=recipe.parallel.tensor,
        sequence_parallel=recipe.parallel.sequence,
        row_tokens=recipe.batch.row_tokens,
    )
    return RunConfig(recipe, plan, corpus, encoder, branch_step, warnings)


def _encoder(recipe: Recipe, corpus: Corpus) -> tuple[EncoderConfig, tuple[str, ...]]:
    """The model to train, and warnings; where it starts from given weights, it must be theirs."""
    encoder = encoder_config(recipe.model, corpus.tokenizer.vocabulary_size)
    if recipe.initial_checkpoint is None:
        return encoder, ()
    given = InitialCheckpoint(recipe.initial_checkpoint)
    given.check_model(recipe.model)
    given.check_tokenizer(corpus.tokenizer_folder, corpus.tokenizer.special_ids.model_dump())
    # Rows that no token uses stay, so that the model comes out as it went in.
    encoder = replace(encoder, vocab_size=given.vocab_size)
    return encoder, tuple(given.rotary_differences(recipe.phases[0].rotary_bases))


def variant_recipe(recipe: Recipe, name: str) -> tuple[Recipe, int]:
    """The recipe of the variant `name`, and the step at which it leaves the main run.

    Raises:
        UserError: no such variant, or one that changes what lies before its branch.
    """
    variant = next((v for v in recipe.variants if v.name == name), None)
    if variant is None:
        known = ", ".join(v.name for v in recipe.variants) or "none"
        raise UserError(f"the recipe has no variant '{name}'", remedy=f"its variants: {known}")
    changed = override_recipe(recipe, variant.overrides)
    main = training_plan(recipe).phases
    index = next(phase.index for phase in main if phase.name == variant.branch_from)
    own = training_plan(changed).phases
    if own[: index + 1] != main[: index + 1] or (
        changed.phases[: index + 1] != recipe.phases[: index + 1]
    ):
        raise UserError(
            f"variant '{name}' overrides what lies before its branch (the end of phase "
            f"'{variant.branch_from}'): {', '.join(variant.overrides)}",
            remedy="override the phases after it alone",
        )
    if index + 1 == len(own):
        raise UserError(
            f"variant '{name}' branches from the last phase: nothing is left to train",
            remedy="name an earlier phase in branch_from",
        )
    return changed, main[index].end_step


def print_plan(run_config: RunConfig, world_size: int, file: TextIO) -> None:
    """The resolved recipe as YAML, and below it the plan as comments: `--dry-run`."""
    recipe, plan = run_config.recipe, run_config.plan
    file.write(dump_recipe(recipe))
    data_ranks = world_size // recipe.parallel.tensor
    file.write(
        f"# {world_size} processes: {data_ranks} data ranks × {recipe.parallel.tensor} tensor "
        f"ranks, ZeRO {recipe.parallel.zero_stage}\n"
        f"# {plan.steps:,} steps, {format_count(plan.tokens)} tokens\n"
    )
    for phase, settings in zip(plan.phases, recipe.phases, strict=True):
        rows = settings.rows or recipe.batch.rows
        file.write(
            f"# {phase.name}: steps {phase.first_step:,} to {phase.end_step - 1:,}, "
            f"{format_count(phase.tokens)} tokens, {rows} rows of {recipe.batch.row_tokens:,} "
            f"tokens a step ({rows // data_ranks} per data rank), context {settings.context:,}, "
            f"{math.ceil(settings.mask_ratio * recipe.batch.row_tokens):,} mask slots a row\n"
            f"#   {describe_phase_settings(recipe, plan, phase.index)}\n"
        )
    file.writelines(f"# warning: {warning}\n" for warning in run_config.warnings)
