"""Read-only commands: `doctor`, `plan`, `inspect`, `results`.

Commands import their dependencies when called, so that `--help` does not wait seconds for torch.
"""

from pathlib import Path
from typing import Annotated

import typer

from mmbert.cli.app import app, console_for_output, examples, refuse_given
from mmbert.command_line.values import MOST_GPUS, MOST_INDEXED, number, parse_path, parse_text
from mmbert.errors import ArgumentError


@app.command(epilog=examples("mmbert doctor"))
def doctor() -> None:
    """Report versions, devices, backends and kernels of this machine, and what is missing."""
    from mmbert.doctor import collect_findings, render

    render(collect_findings(), console_for_output())


@app.command(
    epilog=examples(
        "mmbert plan mmbert-base --gpus 64 --gpu h100 batch.quantum=64 batch.rows=128 "
        "batch.growth.from_rows=64",
        "mmbert plan mmbert-base --plot plan.svg",
    )
)
def plan(
    recipe: Annotated[
        str, typer.Argument(help="Packaged recipe (see `mmbert recipes`) or YAML file.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides of the recipe.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path, help="Shards to take languages, lengths and vocabulary from."
        ),
    ] = None,
    gpus: Annotated[int, typer.Option(help="Number of GPUs.", min=1, max=MOST_GPUS)] = 8,
    gpu: Annotated[str, typer.Option(help="GPU model: h100, h200, a100, …")] = "h100",
    mfu: Annotated[
        float | None,
        typer.Option(
            parser=number(gt=0, le=1),
            help="Assumed model FLOPs utilization (fraction of peak) [default: 0.25].",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path, help="Draw the phases over tokens into this file (.svg or .html)."
        ),
    ] = None,
    utilisation: Annotated[
        float | None,
        typer.Option(parser=number(gt=0, le=1), hidden=True, help="Former name of --mfu."),
    ] = None,
) -> None:
    """Estimate memory, steps, epochs per language and training time of a recipe."""
    from mmbert import planner
    from mmbert.recipe import describe_recipe, load_recipe

    if plot is not None:
        from mmbert.planner.plot import check_path, write_plot

        check_path(plot)
    assumed = utilisation if mfu is None else mfu
    console = console_for_output()
    console.print(describe_recipe(recipe), highlight=False, markup=False, soft_wrap=True)
    estimate = planner.estimate(
        load_recipe(recipe, overrides or []),
        gpus=gpus,
        gpu=gpu,
        shards=data,
        mfu=planner.DEFAULT_MFU if assumed is None else assumed,
    )
    console.print(planner.render(estimate))
    if plot is not None:
        write_plot(estimate, plot)
        console.print(f"plot: {plot}", highlight=False, markup=False, soft_wrap=True)


@app.command(
    epilog=examples(
        "mmbert inspect my_shards",
        "mmbert inspect my_shards --language swh_Latn --document 3",
        "mmbert inspect my_shards --report report.tsv",
        "mmbert inspect my_shards --verify --input my_corpus",
        "mmbert inspect my_run --step 1200 --data my_shards",
    )
)
def inspect(
    path: Annotated[
        Path, typer.Argument(parser=parse_path, help="Folder of shards, run, or checkpoint.")
    ],
    language: Annotated[
        str | None,
        typer.Option(
            parser=parse_text, help="Print a document of this language (or source/language)."
        ),
    ] = None,
    document: Annotated[
        int | None,
        typer.Option(help="Index of the document to print [default: 0].", min=0, max=MOST_INDEXED),
    ] = None,
    held_out: Annotated[
        bool, typer.Option(help="Take the document from the held-out split.")
    ] = False,
    recipe: Annotated[
        str | None, typer.Option(help="Show epochs per language under this recipe.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path,
            help="Write document counts per language to this file (.tsv, .csv): read, kept, "
            "rejected.",
        ),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(help="Verify the checksum of every file (training checks only sizes)."),
    ] = False,
    source_text: Annotated[
        str | None,
        typer.Option(
            "--input",
            parser=parse_text,
            help="With --verify: compare all decoded shards with this source text.",
        ),
    ] = None,
    step: Annotated[
        int | None,
        typer.Option(
            help="Print the documents of this training step of a run.", min=0, max=MOST_INDEXED
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(parser=parse_path, help="Shards of the run (required with --step)."),
    ] = None,
) -> None:
    """Show the contents of shards, a run or a checkpoint, down to one document or one step."""
    from mmbert.inspection import checkpoints, shards
    from mmbert_prep.shards.report import write_report
    from mmbert_prep.shards.verify import verify_against_text

    console = console_for_output()
    of_shards: dict[str, object] = {
        "--language": language,
        "--document": document,
        "--held-out": held_out,
        "--recipe": recipe,
        "--report": report,
        "--verify": verify,
        "--input": source_text,
    }
    of_runs: dict[str, object] = {"--step": step, "--data": data}
    if checkpoints.is_checkpoint(path):
        refuse_given(of_shards | of_runs, f"{path} is a checkpoint", "leave it out")
        checkpoints.render_checkpoint(path, console)
    elif checkpoints.is_run(path):
        refuse_given(of_shards, f"{path} is a run", "name the folder of its shards")
        if step is None:
            refuse_given({"--data": data}, "it needs --step", "give --step, or leave it out")
            checkpoints.render_run(path, console)
        else:
            checkpoints.render_step(path, step, data, console)
    elif shards.is_shards_folder(path):
        refuse_given(of_runs, f"{path} holds shards", "name a run folder")
        if language is None:
            of_documents = {"--document": document, "--held-out": held_out}
            refuse_given(of_documents, "no document is printed", "give --language too")
        if not verify:
            refuse_given({"--input": source_text}, "nothing is verified", "give --verify too")
        if language is not None:
            print(shards.decode_document(path, language, document or 0, held_out=held_out))
        elif report is not None:
            write_report(path, report, console)
        elif verify:
            shards.verify_shards(path, console)
            if source_text is not None:
                verify_against_text(path, source_text, console)
        else:
            shards.render_shards(path, console, recipe)
    else:
        raise ArgumentError(
            f"{path} contains no shards, run or checkpoint",
            remedy="name the OUTPUT folder of preprocessing or training, or RUN/checkpoints/step-…",
        )


@app.command(epilog=examples("mmbert results my_run"))
def results(run: Annotated[Path, typer.Argument(parser=parse_path, help="Run folder.")]) -> None:
    """Print tokens, throughput and held-out loss of each phase of a run."""
    from mmbert.training.metrics.results import Results, print_summary

    found = Results.read(run)
    if found is None:
        raise ArgumentError(
            f"{run} has no results.json",
            remedy="name the --output folder of a training run whose first phase has begun",
        )
    print_summary(found, run, console_for_output())
