"""Views of runs, checkpoints, and the documents of a training step."""

import json
import math
from pathlib import Path

from rich.console import Console

from mmbert.checkpoint.format import INDEX_NAME, Index
from mmbert.checkpoint.reader import verify_checkpoint
from mmbert.checkpoint.store import CheckpointStore
from mmbert.command_line.tables import WholeTable
from mmbert.data.loading.replay import documents_of_step
from mmbert.data.shards.corpus import open_corpus
from mmbert.errors import ArgumentError, UserError
from mmbert.recipe import OptimizerSettings, format_quantity, parse_recipe
from mmbert.schedule import training_plan


def is_checkpoint(path: Path) -> bool:
    """Return whether `path` is a checkpoint folder."""
    return (path / INDEX_NAME).is_file()


def is_run(path: Path) -> bool:
    """Return whether `path` is a run folder."""
    return (path / "checkpoints").is_dir()


def render_checkpoint(path: Path, console: Console) -> None:
    """Print the contents of the checkpoint at `path` after verifying all checksums."""
    problem = verify_checkpoint(path)
    if problem is not None:
        raise problem
    index = Index.read(path)
    state, grid = index.state, index.grid
    recipe = parse_recipe(state.recipe, origin=f"{path}/{INDEX_NAME}")
    console.print(
        f"{path}: valid, {index.total_bytes / 2**20:,.1f} MiB in {len(index.files)} files, "
        f"written by {index.writer}"
    )
    console.print(
        f"step {state.step:,} of {training_plan(recipe).steps:,}, {state.tokens:,} tokens, "
        f"phase {state.phase}{' (its end)' if state.phase_end else ''}, recipe {recipe.name}"
    )
    console.print(
        f"saved from {grid.tensor} tensor × {grid.data} data ranks under ZeRO {grid.zero_stage}; "
        "loads on any grid"
    )
    count = sum(math.prod(parameter.shape) for parameter in index.parameters.values())
    console.print(
        f"{count:,} parameters, each with a float32 master weight, {_states(recipe.optimizer)}"
    )
    table = WholeTable("parameter", "shape", "split along", box=None, pad_edge=False)
    for name, parameter in index.parameters.items():
        split = "-" if parameter.split_dimension is None else str(parameter.split_dimension)
        table.add_row(name, " × ".join(map(str, parameter.shape)), split)
    console.print(table)
    languages = WholeTable("language", "tokens seen", box=None, pad_edge=False)
    seen = sorted(state.language_tokens.items(), key=lambda item: -item[1])
    for language, tokens in seen:
        languages.add_row(language, f"{tokens:,}")
    console.print(languages)


def _states(optimizer: OptimizerSettings) -> str:
    """Describe the optimizer's states per parameter, and per row of matrices."""
    usual, of_matrices = optimizer.states_of("rest"), optimizer.states_of("matrices")
    described = " and ".join(usual)
    if of_matrices != usual:
        described += f" (matrices: {' and '.join((*of_matrices, *optimizer.row_states))})"
    return described


def render_run(path: Path, console: Console) -> None:
    """Print a table of the checkpoints of the run at `path`, oldest first."""
    table = WholeTable(
        "checkpoint", "step", "tokens", "phase", "kept", "size", box=None, pad_edge=False
    )
    for folder in CheckpointStore(path / "checkpoints").list():
        try:
            index = Index.read(folder)
        except UserError as error:
            table.add_row(folder.name, "damaged:", error.message)
            continue
        table.add_row(
            folder.name,
            f"{index.state.step:,}",
            format_quantity(index.state.tokens),
            index.state.phase + (" (end)" if index.state.phase_end else ""),
            "permanently" if index.permanent else "while recent",
            f"{index.total_bytes / 2**20:,.1f} MiB",
        )
    console.print(table)


def render_step(path: Path, step: int, shards: Path | None, console: Console) -> None:
    """Print the documents in the rows of `step` as JSON lines, recomputed from the data order."""
    if shards is None:
        raise ArgumentError(
            "--step requires --data", remedy="give the shards of the run with --data"
        )
    recipe_file = path / "recipe.yaml"
    recipe = parse_recipe(recipe_file.read_text(encoding="utf-8"), origin=str(recipe_file))
    state = None
    for folder in reversed(CheckpointStore(path / "checkpoints").list()):
        index = Index.read(folder)
        if index.state.step <= step:
            state = index.state.data
            break
    corpus = open_corpus(shards)
    for use in documents_of_step(corpus, recipe, training_plan(recipe), step, state):  # type: ignore[arg-type]
        console.print(
            json.dumps(
                {
                    "row": use.row,
                    "language": use.component,
                    "document": use.document,
                    "epoch": use.epoch,
                    "tokens": [use.start, use.start + use.tokens],
                }
            ),
            soft_wrap=True,
            highlight=False,
            markup=False,
        )
