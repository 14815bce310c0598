"""Command `import`: a Hugging Face model or a Composer checkpoint as a starting point."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mmbert.cli.app import app, examples, refuse_given
from mmbert.command_line.values import LONGEST_CONTEXT, parse_path, tokens_from


class Initialization(StrEnum):
    """Source of the embedding rows of new tokens."""

    subwords = "subwords"
    mean = "mean"


@app.command(
    name="import",
    epilog=examples(
        "mmbert import mmBERT-base imported",
        "mmbert import jhu-clsp/mmBERT-base@main imported",
        "mmbert import mmBERT-base imported --tokenizer my_shards/tokenizer",
        "mmbert import mmBERT-base small --sizes mmbert-small",
        "mmbert import mmbert-base-ext.pt imported --phase extension",
        "mmbert import state.pt imported --phase pretrain --tokens 600B "
        "--tokenizer-files ModernBERT-base",
    ),
)
def import_(
    model: Annotated[
        Path,
        typer.Argument(
            parser=parse_path,
            help="ModernBERT model: Hugging Face folder, NAME@REVISION, or Composer checkpoint"
            " (.pt) of ModernBERT's trainer.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(parser=parse_path, help="Folder to write; set `initial_checkpoint` to it."),
    ],
    tokenizer: Annotated[
        Path | None, typer.Option(parser=parse_path, help="Folder of a new or extended tokenizer.")
    ] = None,
    initialization: Annotated[
        Initialization,
        typer.Option(help="Embeddings of new tokens: mean of their subwords, or of all."),
    ] = Initialization.subwords,
    initialisation: Annotated[
        Initialization | None, typer.Option(hidden=True, help="Former name of --initialization.")
    ] = None,
    sizes: Annotated[
        str | None, typer.Option(help="Shrink to the model sizes of this recipe, by striding.")
    ] = None,
    phase: Annotated[
        str | None,
        typer.Option(help="Composer: phase of the recipe that the checkpoint is from."),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            parser=tokens_from(0),
            metavar="TOKENS",
            help="Composer: tokens of that phase so far (600B); default: the file's.",
        ),
    ] = None,
    weights_only: Annotated[
        bool, typer.Option("--weights-only", help="Composer: leave out the training state.")
    ] = False,
    tokenizer_files: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path,
            help="Composer: Hugging Face folder with the model's tokenizer (and config.json), if"
            " the checkpoint has none.",
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            help="Composer: maximum input length, for export and evaluation.",
            min=8,
            max=LONGEST_CONTEXT,
        ),
    ] = None,
) -> None:
    """Import a ModernBERT model (ModernBERT, mmBERT, Ettin, …) as a starting point for training.

    Of a Composer checkpoint, training continues with its moments, optimizer step and place in the
    schedule.
    """
    of_composer = {"--phase": phase, "--tokens": tokens, "--weights-only": weights_only,
                   "--tokenizer-files": tokenizer_files, "--context": context}  # fmt: skip
    of_folders = {"--tokenizer": tokenizer, "--sizes": sizes}
    if is_composer_checkpoint(model):
        refuse_given(of_folders, f"{model} is a Composer checkpoint",
                f"import it with --weights-only first, then import {out} with them")  # fmt: skip
        lines = _import_composer(model, out, phase, tokens, weights_only, tokenizer_files, context)
    else:
        refuse_given(of_composer, f"{model} is not a Composer checkpoint (.pt)", "leave it out")
        lines = _import_folder(model, out, tokenizer, initialisation or initialization, sizes)
    for line in lines:
        print(line)
    print(f"to train from it, set `initial_checkpoint: {out}` in the recipe")


def is_composer_checkpoint(model: Path) -> bool:
    """Return whether `model` is meant as a Composer checkpoint: a file, named like one, or the
    folder of a sharded one (which is refused)."""
    named = model.suffix == ".pt" and not model.is_dir()
    return named or model.is_file() or (model / ".metadata").is_file()


def _import_folder(
    model: Path,
    out: Path,
    tokenizer: Path | None,
    initialization: Initialization,
    sizes: str | None,
) -> list[str]:
    from mmbert.hub.hub_name import model_folder
    from mmbert.hub.importing.import_model import import_model
    from mmbert.recipe import load_recipe

    report = import_model(
        model_folder(model, lambda text: print(text, file=sys.stderr)),
        out,
        tokenizer=tokenizer,
        initialization=initialization.value,
        sizes=load_recipe(sizes).model if sizes is not None else None,
    )
    return list(report.lines())


def _import_composer(
    model: Path,
    out: Path,
    phase: str | None,
    tokens: int | None,
    weights_only: bool,
    tokenizer_files: Path | None,
    context: int | None,
) -> list[str]:
    from mmbert.hub.importing.composer.import_checkpoint import (
        ComposerImportOptions,
        import_composer_checkpoint,
    )

    options = ComposerImportOptions(
        weights_only=weights_only,
        phase=phase,
        tokens=tokens,
        files=tokenizer_files,
        context=context,
    )
    return list(import_composer_checkpoint(model, out, options).lines())
