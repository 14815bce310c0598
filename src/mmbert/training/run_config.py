"""Command-line options of a run, and the configuration resolved from them before training."""

import math
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TextIO

from mmbert.checkpoint.format import Index
from mmbert.checkpoint.imported_start import ImportedStart, find_imported_start
from mmbert.checkpoint.store import list_checkpoints
from mmbert.data.node_copy.copy_plan import plan_copy
from mmbert.data.sampling.component_table import ComponentTable
from mmbert.data.sampling.recipe_warnings import corpus_warnings
from mmbert.data.shards.corpus import Corpus, open_corpus
from mmbert.data.shards.manifest import MANIFEST_NAME
from mmbert.data.shards.tokenizer_function import different_ids
from mmbert.errors import ArgumentError, CheckpointError, OutputError, RecipeError, TokenizerError
from mmbert.model.config import EncoderConfig, check_parallel, encoder_config
from mmbert.model.initial_checkpoint import InitialCheckpoint
from mmbert.recipe import Recipe, dump_recipe, load_recipe, override_recipe
from mmbert.recipe.division import check_data_ranks
from mmbert.schedule import TrainingPlan, describe_phase_settings, training_plan
from mmbert.training.metrics.loggers.console_logger import format_count

_EMBEDDING = "model.embeddings.tok_embeddings.weight"


@dataclass(frozen=True)
class RunOptions:
    """Options of the command line."""

    recipe: str | Path
    """Name of a packaged recipe, or path of a recipe file."""
    data: Path
    output: Path
    overrides: tuple[str, ...] = ()
    variant: str | None = None
    stop_after_phase: str | None = None
    profile_steps: int = 0
    take_over: bool = False
    """Take the run folder from a process that still owns it."""

    @property
    def run_folder(self) -> Path:
        """The run folder; for a variant, a subfolder of the main run's."""
        return self.output / "variants" / self.variant if self.variant else self.output


@dataclass(frozen=True)
class RunConfig:
    """The resolved recipe, with the plan, shards and model that it is trained with."""

    recipe: Recipe
    plan: TrainingPlan
    corpus: Corpus
    encoder: EncoderConfig
    folder: Path
    """The run folder."""
    branch_step: int | None = field(default=None)
    """Step of the main run's checkpoint that a variant starts from."""
    resumes: bool = False
    """Whether the run has a checkpoint, or branches from one: it needs no initial checkpoint."""
    imported: ImportedStart | None = None
    """Training state of another trainer that the run continues from; None for weights alone, and
    once the run has a checkpoint."""
    warnings: tuple[str, ...] = ()
    """Warnings about settings that are allowed but probably unintended."""

    @cached_property
    def table(self) -> ComponentTable:
        """Components (source and language) of the data, with their planned tokens."""
        return ComponentTable.build(self.corpus, self.recipe, self.plan)


@dataclass(frozen=True)
class ResolvedRecipe:
    """The recipe of a run, or of its variant, checked as far as that needs no shards."""

    recipe: Recipe
    plan: TrainingPlan
    branch_step: int | None


def resolve_recipe(options: RunOptions, world_size: int) -> ResolvedRecipe:
    """Load the recipe and check it against the number of processes.

    Raises:
        UserError: the recipe is invalid, or does not fit the options or the processes.
    """
    recipe = load_recipe(options.recipe, options.overrides)
    branch_step = None
    if options.variant is not None:
        recipe, branch_step = variant_recipe(recipe, options.variant)
    if options.stop_after_phase is not None:
        names = [phase.name for phase in recipe.phases]
        if options.stop_after_phase not in names:
            raise ArgumentError(
                f"unknown phase '{options.stop_after_phase}' in --stop-after-phase",
                remedy=f"choose one of the recipe's phases: {', '.join(names)}",
            )
    plan = training_plan(recipe)
    check_data_ranks(recipe.batch, recipe.parallel, world_size)
    return ResolvedRecipe(recipe, plan, branch_step)


def resolve_run_config(options: RunOptions, world_size: int) -> RunConfig:
    """Load the recipe and the shards, and run the checks that need no process group.

    Raises:
        UserError: recipe, shards and number of processes are invalid or inconsistent.
    """
    resolved = resolve_recipe(options, world_size)
    return configure_run(options, resolved, open_corpus(options.data))


def configure_run(options: RunOptions, resolved: ResolvedRecipe, corpus: Corpus) -> RunConfig:
    """Check the recipe against the shards, and find what the run starts from.

    Raises:
        UserError: they are inconsistent.
    """
    recipe, plan, branch_step = resolved.recipe, resolved.plan, resolved.branch_step
    _check_run_folder(options.output)
    folder, imported = options.run_folder, None
    saved = list_checkpoints(folder / "checkpoints")
    if not saved and branch_step is not None:
        saved = list_checkpoints(options.output / "checkpoints")
    resumes = bool(saved) or branch_step is not None
    warnings: tuple[str, ...] = ()
    if resumes:
        # The initial checkpoint was checked at the first start, and may be gone.
        encoder = _saved_encoder(recipe, corpus, saved)
    else:
        imported = find_imported_start(recipe, plan)
        encoder, warnings = _encoder(recipe, corpus, plan, imported)
    check_parallel(
        encoder,
        tensor_parallel=recipe.parallel.tensor,
        sequence_parallel=recipe.parallel.sequence,
        row_tokens=recipe.batch.row_tokens,
    )
    warnings = (*corpus_warnings(recipe, plan, corpus), *warnings)
    return RunConfig(
        recipe, plan, corpus, encoder, folder, branch_step, resumes, imported, warnings
    )


def _check_run_folder(folder: Path) -> None:
    """Refuse a folder of shards as run folder: both keep a tokenizer there."""
    if next(folder.glob(f"*/*/{MANIFEST_NAME}"), None) is not None:
        raise OutputError(
            f"{folder} holds shards, not a run", remedy="give --output a folder of its own"
        )


def _saved_encoder(recipe: Recipe, corpus: Corpus, checkpoints: list[Path]) -> EncoderConfig:
    """Return the model configuration, with the embedding rows of the newest readable checkpoint.

    Without one, loading fails and says why.
    """
    encoder = encoder_config(recipe.model, corpus.tokenizer.vocabulary_size)
    if recipe.initial_checkpoint is None:
        return encoder
    for path in reversed(checkpoints):
        with suppress(CheckpointError):
            return replace(encoder, vocab_size=Index.read(path).parameters[_EMBEDDING].shape[0])
    return encoder


def _encoder(
    recipe: Recipe, corpus: Corpus, plan: TrainingPlan, imported: ImportedStart | None
) -> tuple[EncoderConfig, tuple[str, ...]]:
    """Return the model configuration and warnings; check it against any initial checkpoint."""
    encoder = encoder_config(recipe.model, corpus.tokenizer.vocabulary_size)
    if recipe.initial_checkpoint is None:
        return encoder, ()
    initial = InitialCheckpoint(recipe.initial_checkpoint)
    initial.check_model(recipe.model)
    initial.check_tokenizer(corpus.tokenizer_folder, corpus.tokenizer.special_ids.model_dump())
    text = different_ids(recipe.initial_checkpoint, corpus.tokenizer_folder)
    if text is not None:
        raise TokenizerError(
            f"the shards and the model in {recipe.initial_checkpoint} have different tokenizers:"
            f" they give other ids to {text!r}",
            remedy=f"preprocess with TOKENIZER={recipe.initial_checkpoint}",
        )
    # Unused embedding rows are kept, so that the exported model has the shapes of the imported one.
    encoder = replace(encoder, vocab_size=initial.vocab_size)
    if imported is None:
        return encoder, tuple(initial.rotary_differences(recipe.phases[0].rotary_bases))
    phase = recipe.phases[plan.at(imported.step).phase_index]
    differences = initial.rotary_differences(phase.rotary_bases, f"phase '{phase.name}'")
    return encoder, (*differences, *imported.warnings)


def variant_recipe(recipe: Recipe, name: str) -> tuple[Recipe, int]:
    """Return the recipe of variant `name`, and the step at which it branches from the main run.

    Raises:
        UserError: the variant is unknown, changes a phase before its branch, or has no phase after
            it.
    """
    variant = next((v for v in recipe.variants if v.name == name), None)
    if variant is None:
        known = ", ".join(v.name for v in recipe.variants) or "none"
        raise ArgumentError(f"the recipe has no variant '{name}'", remedy=f"its variants: {known}")
    changed = override_recipe(recipe, variant.overrides)
    main = training_plan(recipe).phases
    index = next(phase.index for phase in main if phase.name == variant.branch_from)
    own = training_plan(changed).phases
    if own[: index + 1] != main[: index + 1] or (
        changed.phases[: index + 1] != recipe.phases[: index + 1]
    ):
        raise RecipeError(
            f"variant '{name}' changes what precedes its branch (the end of phase "
            f"'{variant.branch_from}'): {', '.join(variant.overrides)}",
            remedy="override only the phases after it",
        )
    if index + 1 == len(own):
        raise RecipeError(
            f"variant '{name}' branches from the last phase: nothing is left to train",
            remedy="choose an earlier phase in branch_from",
        )
    return changed, main[index].end_step


def print_plan(run_config: RunConfig, world_size: int, file: TextIO) -> None:
    """Print the resolved recipe as YAML, followed by the plan as comments (`--dry-run`)."""
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
        slots = math.ceil(settings.predicted_fraction * recipe.batch.row_tokens)
        kind = "prediction" if settings.causal else "mask"
        file.write(
            f"# {phase.name}: steps {phase.first_step:,} to {phase.end_step - 1:,}, "
            f"{format_count(phase.tokens)} tokens, {rows} rows of {recipe.batch.row_tokens:,} "
            f"tokens a step ({rows // data_ranks} per data rank), context {settings.context:,}, "
            f"{slots:,} {kind} slots a row\n"
            f"#   {describe_phase_settings(recipe, plan, phase.index)}\n"
        )
    if run_config.imported is not None:
        file.write(f"# {run_config.imported.description}\n")
    if recipe.data.copy_to is not None:
        sources = {source.folder for source in recipe.data.sources}
        copy = plan_copy(run_config.corpus, sources, recipe.longest_context)
        file.write(
            f"# {len(copy.files):,} files of the shards, {copy.size}, are copied to "
            f"{recipe.data.copy_to}/{copy.folder_name} on every node\n"
        )
    file.writelines(f"# warning: {warning}\n" for warning in run_config.warnings)
