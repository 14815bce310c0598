"""The `mmbert` command: what is done with recipes, shards, runs and models besides training."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mmbert.errors import EXIT_USER_ERROR, UserError


# Commands import what they need when they run: torch takes seconds, `--help` should not.
class Dtype(StrEnum):
    """Precision of exported weights."""

    float32 = "float32"
    bfloat16 = "bfloat16"


app = typer.Typer(
    help="Pretrain multilingual encoders: plan, inspect, export, import, merge, evaluate.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _console() -> Console:
    """Standard output; what is piped into a file is not folded to a narrow terminal."""
    return Console() if sys.stdout.isatty() else Console(width=140)


@app.command(epilog="Example: `mmbert doctor`")
def doctor() -> None:
    """Print versions, devices, backends, the kernels that will be used, and what is missing."""
    from mmbert.doctor import examine, render

    render(examine(), _console())


@app.command(
    epilog="Example: `mmbert plan launch/recipes/mmbert-base.yaml --gpus 64 --gpu h100 "
    "batch.quantum=64 batch.rows=128 batch.growth.from_rows=64`"
)
def plan(
    recipe: Annotated[Path, typer.Argument(help="The recipe's YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides of the recipe.")
    ] = None,
    gpus: Annotated[int, typer.Option(help="How many GPUs.", min=1)] = 8,
    gpu: Annotated[str, typer.Option(help="Kind of GPU: h100, h200, a100, …")] = "h100",
    utilisation: Annotated[
        float | None, typer.Option(help="Share of the GPU's peak that the model's FLOPs reach.")
    ] = None,
) -> None:
    """Say what a recipe costs before it is run: memory, steps, epochs per language, time."""
    from mmbert import planner
    from mmbert.recipe import load_recipe

    _console().print(
        planner.render(
            planner.plan(
                load_recipe(recipe, overrides or []),
                gpus=gpus,
                gpu=gpu,
                utilisation=utilisation or planner.DEFAULT_UTILISATION,
            )
        )
    )


@app.command(
    epilog="Examples: `mmbert inspect my_shards`, "
    "`mmbert inspect my_shards --language swh_Latn --document 3`"
)
def inspect(
    path: Annotated[Path, typer.Argument(help="A folder of shards.")],
    language: Annotated[
        str | None, typer.Option(help="Language (or source/language) of the document to print.")
    ] = None,
    document: Annotated[int, typer.Option(help="Number of the document to print.", min=0)] = 0,
    held_out: Annotated[bool, typer.Option(help="Take it from the held-out part.")] = False,
) -> None:
    """Show what lies at a path: languages, tokens, rejected documents; or decode one document."""
    from mmbert import inspection

    if not inspection.is_shards_folder(path):
        raise UserError(
            f"{path} holds no shards (no tokenizer/description.json in it)",
            remedy="name the OUTPUT folder of the preprocessing",
        )
    if language is not None:
        typer.echo(inspection.decode_document(path, language, document, held_out=held_out))
    else:
        inspection.render_shards(path, _console())


@app.command(
    epilog="Examples: `mmbert export my_run my_model`, "
    "`mmbert export my_run/checkpoints/step-00002000 my_model --dtype bfloat16`"
)
def export(
    checkpoint: Annotated[
        Path, typer.Argument(help="A run (its newest sound checkpoint is taken) or a checkpoint.")
    ],
    out: Annotated[Path, typer.Argument(help="The Hugging Face folder to write.")],
    dtype: Annotated[Dtype, typer.Option(help="Precision of the weights.")] = Dtype.float32,
) -> None:
    """Write a Hugging Face folder that `transformers` loads; its logits are compared first."""
    from mmbert.hub.export import export_checkpoint

    comparison = export_checkpoint(_checkpoint(checkpoint), out, dtype.value)
    typer.echo(f"{out}: transformers gives the same logits ({comparison})")


@app.command(
    name="fill-mask", epilog="Example: `mmbert fill-mask my_model 'The capital is [MASK].'`"
)
def fill_mask(
    model: Annotated[Path, typer.Argument(help="A Hugging Face folder, such as export writes.")],
    sentences: Annotated[list[str], typer.Argument(help="Sentences with [MASK] in them.")],
    top: Annotated[int, typer.Option(help="Candidates for each mask.", min=1)] = 5,
) -> None:
    """Fill masked tokens with an exported model, through `transformers`."""
    from mmbert.hub.fill_mask import fill_masks

    for sentence, masks in zip(sentences, fill_masks(model, sentences, top=top), strict=True):
        typer.echo(sentence)
        for fillings in masks:
            words = (f"{filling.text!r} {filling.probability:.3f}" for filling in fillings)
            typer.echo(f"  {'  '.join(words)}")


@app.command(epilog="Example: `mmbert results my_run`")
def results(run: Annotated[Path, typer.Argument(help="A run's folder.")]) -> None:
    """Print what each phase of a run saw and what it did to the held-out loss."""
    from mmbert.training.results import Results, print_summary

    found = Results.read(run)
    if found is None:
        raise UserError(
            f"{run} has no results.json",
            remedy="name the --output folder of launch/pretrain.py, once its first phase has begun",
        )
    print_summary(found, run, _console())


def _checkpoint(path: Path) -> Path:
    """`path` itself, or the newest sound checkpoint if it is a run's folder."""
    if not (path / "checkpoints").is_dir():
        return path
    from mmbert.training.checkpoint import CheckpointStore

    newest = CheckpointStore(path / "checkpoints").newest_sound()
    if newest is None:
        raise UserError(f"{path} has no checkpoint yet", remedy="train it first")
    return newest


def main() -> None:
    """Entry point: a UserError becomes exit status 2 with its message and remedy."""
    try:
        app()
    except UserError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {error}", markup=False)
        sys.exit(EXIT_USER_ERROR)


if __name__ == "__main__":
    main()
