"""The run's folder: its resolved recipe, its own copy of the tokenizer, and whose folder it is."""

import shutil
from pathlib import Path

from mmbert.data.corpus import Corpus
from mmbert.data.files import atomic_write, make_folder, sync_tree
from mmbert.data.tokenizer import read_tokenizer_description
from mmbert.errors import UserError
from mmbert.recipe import Recipe, dump_recipe, parse_recipe
from mmbert.schedule import training_plan
from mmbert.training.checkpoint_format import RunState

# What decides which rows are drawn, and what the weights mean: with another value a checkpoint
# would continue as something else. Of the phases only those already begun count.
_FIXED = ("seed", "data", "tokenizer")
_FIXED_BATCH = ("row_tokens", "quantum")
_FIXED_PHASE = ("name", "tokens", "context", "languages", "temperature", "mask_ratio", "rows")


def set_up_run_folder(run_folder: Path, recipe: Recipe, corpus: Corpus) -> None:
    """Write recipe.yaml and copy the tokenizer (rank 0 alone).

    Raises:
        UserError: the folder cannot be written, or belongs to a run with another tokenizer.
    """
    try:
        make_folder(run_folder)
        tokenizer = run_folder / "tokenizer"
        if tokenizer.exists():
            found = read_tokenizer_description(tokenizer).fingerprint
            if found != corpus.tokenizer.fingerprint:
                raise UserError(
                    f"{run_folder} belongs to a run with another tokenizer than the shards "
                    f"{corpus.root}",
                    remedy="give another --output, or the shards that the run began with",
                )
        else:
            partial = run_folder / ".tokenizer.partial"
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(corpus.tokenizer_folder, partial)
            sync_tree(partial)
            partial.rename(tokenizer)
        with atomic_write(run_folder / "recipe.yaml") as file:  # syncs the folder as well
            file.write(dump_recipe(recipe).encode())
    except OSError as error:
        raise UserError(
            f"cannot write to {run_folder}: {error.strerror}", remedy="give another --output"
        ) from error


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
