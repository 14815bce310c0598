"""The plan of a decay: its recipe, checked against shards and model, and its cost."""

import os
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from mmbert import planner
from mmbert.checkpoint.imported_state import read_imported_state
from mmbert.data.shards.corpus import Corpus, open_corpus
from mmbert.decay.filled_recipe import describe_changes, fill_recipe, selects, sources_of
from mmbert.decay.importing import start_configuration
from mmbert.decay.layout import DecayFolder
from mmbert.decay.request import DecayRequest
from mmbert.errors import EvaluationDataError, TextError
from mmbert.files import atomic_write
from mmbert.recipe import Recipe, dump_recipe, load_recipe
from mmbert.training.run_config import RunOptions, resolve_run_config

Say = Callable[[str], None]
MOST_NAMED = 5


def write_recipe(request: DecayRequest, folder: DecayFolder, say: Say) -> None:
    """Write the complete recipe, checked as the training will check it.

    Raises:
        TextError: a language of the request has no text.
        EvaluationDataError: no new language has held-out text.
        UserError: recipe, model and shards do not fit each other.
    """
    corpus = open_corpus(folder.shards)
    new, old = _languages(corpus, request)
    chosen = [name for name in new if not request.languages or selects(request.languages, name)]
    _check_text(request, chosen, say)
    _check_held_out(corpus, request, chosen, say)
    both = sorted(set(chosen) & set(old))
    if both:
        say(f"in both the new and the old text, and sampled from both: {_names(both)}")
    state = read_imported_state(folder.imported)
    recipe = fill_recipe(
        request,
        folder,
        start_configuration(request, folder, say),
        state,
        sorted({*chosen, *old}) if request.languages else (),
    )
    for line in describe_changes(request, recipe, state):
        say(line)
    partial = folder.path / ".recipe.yaml"
    with atomic_write(partial) as file:
        file.write(dump_recipe(recipe).encode())
    try:
        options = RunOptions(partial, folder.shards, folder.run)
        config = resolve_run_config(options, recipe.parallel.tensor)
        assert config.table  # raises SamplingError if the shards lack text for the recipe
    except BaseException:
        partial.unlink()
        raise
    if config.imported is not None:
        say(config.imported.description)
    for warning in config.warnings:
        say(f"warning: {warning}")
    os.replace(partial, folder.recipe)


def print_cost(folder: DecayFolder, gpus: int, gpu: str, console: Console) -> None:
    """Print the planner's estimate of the run. Raises UserError for an unknown GPU."""
    recipe = load_recipe(folder.recipe)
    console.print(
        planner.render(planner.estimate(recipe, gpus=gpus, gpu=gpu, shards=folder.shards))
    )


def read_recipe(folder: DecayFolder) -> Recipe:
    """Read the complete recipe."""
    return load_recipe(Path(folder.recipe))


def _languages(corpus: Corpus, request: DecayRequest) -> tuple[list[str], list[str]]:
    """Return the languages with training text of the new source, and of the old one."""
    sources = sources_of(request)
    found: dict[str, list[str]] = {}
    for component in corpus.components:
        if component.manifest.train.tokens:
            found.setdefault(component.source, []).append(component.language)
    return found.get(sources.new, []), found.get(sources.old or "", [])


def _check_text(request: DecayRequest, chosen: list[str], say: Say) -> None:
    missing = [
        name for name in request.languages if not any(selects([name], one) for one in chosen)
    ]
    if missing or not chosen:
        raise TextError(
            f"no text in {request.input} for {_names(missing) or 'any language'}",
            remedy="write languages as iso639-3_Script (swh_Latn); "
            f"with text: {_names(chosen) or 'none, see the counts of the preprocessing'}",
        )
    say(f"{len(chosen)} new languages: {_names(chosen)}")


def _check_held_out(corpus: Corpus, request: DecayRequest, chosen: list[str], say: Say) -> None:
    source = sources_of(request).new
    without = [
        component.language
        for component in corpus.components
        if component.source == source
        and component.language in chosen
        and not component.manifest.heldout.documents
    ]
    if len(without) == len(chosen):
        raise EvaluationDataError(
            "no new language has held-out text to measure the result on",
            remedy="preprocess in another OUTPUT with a larger fraction: --preprocess "
            "'--heldout-fraction 0.05'",
        )
    if without:
        say(f"without held-out text, so not in the table of losses: {_names(without)}")


def _names(names: list[str]) -> str:
    left = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {left} more" if left > 0 else "")
