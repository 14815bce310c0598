"""Commands for Slurm clusters: `submit`, `status`."""

import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmbert.cli.app import app, console_for_output, examples
from mmbert.cli.packaged_commands import packaged_scripts
from mmbert.command_line.values import parse_output_folder, parse_path, parse_text
from mmbert.errors import ArgumentError, TextError, UserError

if TYPE_CHECKING:
    from mmbert.cluster.site import Site
    from mmbert.recipe import Recipe


@app.command(
    epilog=examples(
        "slurm/submit.sh",
        "mmbert submit mmbert-base my_text my_out --site my-site.yaml --nodes 8 batch.quantum=64 "
        "batch.rows=128 batch.growth.from_rows=64 --dry-run",
        "mmbert submit my.yaml my_text my_out --set partition=gpu --set steps.preprocess.nodes=4",
    )
)
def submit(
    recipe: Annotated[
        str | None,
        typer.Argument(parser=parse_text, help="Packaged recipe (see `mmbert recipes`) or YAML."),
    ] = None,
    input: Annotated[
        str | None,
        typer.Argument(
            parser=parse_text,
            help="Text, as for the preprocessing; with several sources in the recipe, a folder "
            "that has one of each.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Argument(parser=parse_output_folder, help="Folder for everything that is made."),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides of the recipe.")
    ] = None,
    site: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path,
            help="Values of the site [default: MMBERT_SITE, else site.yaml beside the scripts].",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Value of the site; repeatable."),
    ] = None,
    nodes: Annotated[
        int | None, typer.Option(help="Nodes of a training job.", min=1, max=1_000_000)
    ] = None,
    preprocess: Annotated[
        str, typer.Option(help="Further options of the preprocessing, quoted.")
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the recipe and print all commands.")
    ] = False,
) -> None:
    """Submit everything from text to an evaluated model as a chain of Slurm jobs.

    Steps: preprocess, pretrain, decay (a job array of the recipe's variants), merge (and export),
    evaluate; each waits for the one before it. What is done is left out: after a failure, the same
    command submits the rest. Without arguments, a demo in the folder demo-chain. Shards, run,
    model, merged, evaluation and logs are in OUTPUT.
    """
    from mmbert.cluster import demo
    from mmbert.cluster.chain import ChainFolder
    from mmbert.cluster.grid import check_training
    from mmbert.cluster.site_script import check_binds
    from mmbert.cluster.steps import chain_steps, preprocessed
    from mmbert.cluster.submission import (
        Chain,
        comment,
        excluded_nodes,
        printed_commands,
        without_nodes,
    )
    from mmbert.cluster.submission import submit as submit_chain
    from mmbert.launching import split_words

    scripts = _scripts()
    values = _site(site, scripts, set_ or [], nodes)
    more = tuple(split_words("--preprocess", preprocess))
    corpus = None
    if recipe is None or input is None or output is None:
        if recipe is not None:
            raise ArgumentError(
                "RECIPE, INPUT and OUTPUT are required", remedy="give all three, or none for a demo"
            )
        recipe, output = "demo", demo.OUT
        corpus, more = output.absolute() / "corpus", (*demo.PREPROCESS, *more)
        input = str(corpus)
        loaded, values = demo.demo_recipe([]), demo.demo_site(values)
    else:
        from mmbert.recipe import load_recipe

        loaded = load_recipe(recipe, overrides or ())
    folder = ChainFolder(output.absolute())
    if corpus is None and not preprocessed(folder, loaded):
        try:
            input = _text(input, loaded)
        except UserError as error:
            if not dry_run:
                raise
            for line in comment(f"before submitting: {error}"):
                print(line)
    environment = _environment()
    check_binds(values.container, [folder.path, *([Path(input)] if input[:1] == "/" else [])])
    steps = chain_steps(
        loaded, input, folder, values, preprocess=more, python=str(environment / "bin" / "python")
    )
    excluded = excluded_nodes(folder, loaded, values)
    steps = [without_nodes(step, excluded) for step in steps]
    chain = Chain(folder, scripts, environment, loaded, recipe, input, values, tuple(steps))
    shards = folder.shards if preprocessed(folder, loaded) else None
    for line in check_training(loaded, values, shards):
        print(f"# {line}" if dry_run else line)
    if dry_run:
        if corpus is not None and not corpus.is_dir():
            print(shlex.join(demo.corpus_command(corpus)))
        for line in printed_commands(chain):
            print(line)
        return
    if not chain.left:
        print(f"everything is done: {folder.path}")
        return
    if corpus is not None:
        demo.make_corpus(corpus)
    for job in submit_chain(chain, print):
        print(f"{job.step}: job {job.job}, log {job.log(folder)}")
    print(f"see: mmbert status {shlex.quote(str(output))}")


@app.command(epilog=examples("mmbert status my_out", "mmbert status my_run --json"))
def status(
    path: Annotated[
        Path, typer.Argument(parser=parse_path, help="OUTPUT of `mmbert submit`, or a run.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Show what runs, waits and failed, how fast, when it ends, and GPU-hours used and lost."""
    from mmbert.cluster.monitoring.rendering import render_status, status_as_json
    from mmbert.cluster.monitoring.status import read_status

    found = read_status(path)
    if as_json:
        print(json.dumps(status_as_json(found), ensure_ascii=False, indent=1))
        return
    console = console_for_output()
    for part in render_status(found):
        console.print(part)


def _scripts() -> Path:
    """Return the folder of the scripts that were called, else that of the package."""
    given = os.environ.get("MMBERT_SCRIPTS", "")
    folder = Path(given).absolute() if given.strip() else packaged_scripts()
    if folder.name != "slurm" or not (folder / "common.bash").is_file():
        raise ArgumentError(
            f"{folder} is not a folder slurm with the batch scripts",
            remedy="copy them with `mmbert slurm-scripts`, into a folder of that name",
        )
    return folder


def _site(path: Path | None, scripts: Path, overrides: list[str], nodes: int | None) -> "Site":
    """Return the values of the site: a file, changed by the options."""
    from mmbert.cluster.site import SITE_NAME, load_site
    from mmbert.cluster.submission import comment

    given = os.environ.get("MMBERT_SITE", "").strip()
    if path is None and given:
        path = Path(given)
    if path is None and (scripts / SITE_NAME).is_file():
        path = scripts / SITE_NAME
    found = load_site(path, overrides)
    if nodes is not None:
        found = found.with_nodes(nodes)
    for line in comment(f"site: {path or 'no file, so that the defaults of Slurm apply'}"):
        print(line)
    return found


def _text(input: str, recipe: "Recipe") -> str:
    """Return INPUT with an absolute path.

    Raises:
        UserError: it is a path that is not there, or lacks the folder of a source.
    """
    from mmbert_prep.source_options import named_inputs

    if len(recipe.data.sources) > 1:
        named_inputs([], None, Path(input), recipe)
    if Path(input).exists():
        return str(Path(input).absolute())
    if input.startswith("hf:") or any(letter in input for letter in "*?["):
        return input
    raise TextError(f"{input} does not exist", remedy="name the folder of the text")


def _environment() -> Path:
    """Return the environment of the jobs: this Python's."""
    found = Path(os.environ.get("MMBERT_VENV", "").strip() or sys.prefix).absolute()
    if not os.access(found / "bin" / "python", os.X_OK):
        raise ArgumentError(
            f"there is no {found / 'bin' / 'python'}, which the jobs call",
            remedy="set MMBERT_VENV to the folder of the virtual environment with mmbert",
        )
    return found
