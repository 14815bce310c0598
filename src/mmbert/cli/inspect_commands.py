"""The commands that look at things: doctor, plan, inspect, results.

Commands import what they need when they run: torch takes seconds, `--help` should not.
"""

from pathlib import Path
from typing import Annotated

import typer

from mmbert.cli.app import app, console_for_output
from mmbert.errors import UserError


@app.command(epilog="Example: `mmbert doctor`")
def doctor() -> None:
    """Print versions, devices, backends, the kernels that will be used, and what is missing."""
    from mmbert.doctor import collect_findings, render

    render(collect_findings(), console_for_output())


@app.command(
    epilog="Example: `mmbert plan mmbert-base --gpus 64 --gpu h100 "
    "batch.quantum=64 batch.rows=128 batch.growth.from_rows=64`"
)
def plan(
    recipe: Annotated[
        str, typer.Argument(help="Name of a packaged recipe (`mmbert recipes`), or a YAML file.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides of the recipe.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Shards: their languages, lengths and vocabulary.")
    ] = None,
    gpus: Annotated[int, typer.Option(help="How many GPUs.", min=1)] = 8,
    gpu: Annotated[str, typer.Option(help="Kind of GPU: h100, h200, a100, …")] = "h100",
    mfu: Annotated[
        float | None, typer.Option(help="Model FLOPs utilization assumed, a fraction of the peak.")
    ] = None,
    utilisation: Annotated[
        float | None, typer.Option(hidden=True, help="Former name of --mfu.")
    ] = None,
) -> None:
    """Say what a recipe costs before it is run: memory, steps, epochs per language, time."""
    from mmbert import planner
    from mmbert.recipe import describe_recipe, load_recipe

    assumed = utilisation if mfu is None else mfu
    console = console_for_output()
    console.print(describe_recipe(recipe), highlight=False, markup=False, soft_wrap=True)
    console.print(
        planner.render(
            planner.estimate(
                load_recipe(recipe, overrides or []),
                gpus=gpus,
                gpu=gpu,
                shards=data,
                mfu=planner.DEFAULT_MFU if assumed is None else assumed,
            )
        )
    )


@app.command(
    epilog="Examples: `mmbert inspect my_shards`, "
    "`mmbert inspect my_shards --language swh_Latn --document 3`, "
    "`mmbert inspect my_shards --report report.tsv`, "
    "`mmbert inspect my_shards --verify --input my_corpus`, "
    "`mmbert inspect my_run --step 1200 --data my_shards`"
)
def inspect(
    path: Annotated[Path, typer.Argument(help="A folder of shards, a run, or a checkpoint.")],
    language: Annotated[
        str | None, typer.Option(help="Language (or source/language) of a document to print.")
    ] = None,
    document: Annotated[int, typer.Option(help="Number of the document to print.", min=0)] = 0,
    held_out: Annotated[bool, typer.Option(help="Take it from the held-out part.")] = False,
    recipe: Annotated[
        str | None, typer.Option(help="Show epochs of each language under this recipe.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Write documents read, kept and rejected by reason per language (.tsv)."),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(help="Compare every file with its checksum (training checks sizes alone)."),
    ] = False,
    source_text: Annotated[
        str | None,
        typer.Option("--input", help="With --verify: decode all shards against this text."),
    ] = None,
    step: Annotated[
        int | None, typer.Option(help="Print the documents of this step of a run.", min=0)
    ] = None,
    data: Annotated[Path | None, typer.Option(help="The run's shards (with --step).")] = None,
) -> None:
    """Show what lies at a path: languages and tokens, checkpoints, one document, one step."""
    from mmbert.inspection import checkpoints, shards
    from mmbert_prep.shards.report import write_report
    from mmbert_prep.shards.verify import verify_against_text

    console = console_for_output()
    if checkpoints.is_checkpoint(path):
        checkpoints.render_checkpoint(path, console)
    elif checkpoints.is_run(path):
        if step is None:
            checkpoints.render_run(path, console)
        else:
            checkpoints.render_step(path, step, data, console)
    elif shards.is_shards_folder(path):
        if language is not None:
            typer.echo(shards.decode_document(path, language, document, held_out=held_out))
        elif report is not None:
            write_report(path, report, console)
        elif verify:
            shards.verify_shards(path, console)
            if source_text is not None:
                verify_against_text(path, source_text, console)
        else:
            shards.render_shards(path, console, recipe)
    else:
        raise UserError(
            f"{path} holds neither shards, nor a run, nor a checkpoint",
            remedy="name the OUTPUT folder of preprocessing or training, or RUN/checkpoints/step-…",
        )


@app.command(epilog="Example: `mmbert results my_run`")
def results(run: Annotated[Path, typer.Argument(help="A run's folder.")]) -> None:
    """Print what each phase of a run saw and what it did to the held-out loss."""
    from mmbert.training.metrics.results import Results, print_summary

    found = Results.read(run)
    if found is None:
        raise UserError(
            f"{run} has no results.json",
            remedy="name the --output folder of training, once its first phase has begun",
        )
    print_summary(found, run, console_for_output())
