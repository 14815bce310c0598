"""`mmbert report`: one HTML page of runs, or of a folder of shards."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from mmbert.cli.app import app, console_for_output, examples
from mmbert.command_line.values import parse_path
from mmbert.errors import ArgumentError


@app.command(
    epilog=examples(
        "mmbert report my_run",
        "mmbert report my_run other_run --output comparison.html",
        "mmbert report my_shards --output data.html",
        "mmbert report my_shards --identify bundled",
        "mmbert report my_shards --identify glotlid/model.bin",
    )
)
def report(
    folders: Annotated[
        list[Path],
        typer.Argument(
            parser=parse_path,
            metavar="FOLDER",
            help="Run folders, finished or under way; or one folder of shards.",
        ),
    ],
    output: Annotated[Path, typer.Option(parser=parse_path, help="HTML file to write.")] = Path(
        "report.html"
    ),
    identify: Annotated[
        str | None,
        typer.Option(
            metavar="bundled|MODEL.bin",
            help="For shards: compare a sample of each language with what py3langid (bundled) or "
            "a fastText model such as GlotLID finds.",
        ),
    ] = None,
) -> None:
    """Write a page of runs or of shards.

    Of runs: losses, languages, speed, faults and recipe. Of shards: tokens, lengths, rejected
    documents, byte fallback, and ten random documents of each language. The page is a single file
    that loads nothing: it can be mailed, archived and read offline.
    """
    from mmbert.report.shards.contents import is_shards_folder

    shards = [folder for folder in folders if is_shards_folder(folder)]
    if shards:
        _check_one(folders, shards)
        _report_shards(shards[0], output, identify)
    elif identify is not None:
        raise ArgumentError(
            f"--identify reads documents, but {folders[0]} is no folder of shards",
            remedy="name the OUTPUT folder of preprocessing, or leave --identify out",
        )
    else:
        _report_runs(folders, output)


def _report_runs(runs: Sequence[Path], output: Path) -> None:
    from mmbert.report.page import write_report

    written = write_report(runs, output)
    for warning in written.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    count = len(written.runs)
    print(f"{output}: {_megabytes(output)}, {count} run{'' if count == 1 else 's'}")


def _report_shards(shards: Path, output: Path, identify: str | None) -> None:
    from mmbert.report.shards.console import print_contents, print_identification
    from mmbert.report.shards.page import write_shards_report

    written = write_shards_report(shards, output, identify)
    for warning in written.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    console = console_for_output()
    print_contents(written.contents, console)
    if written.identification is not None:
        print_identification(written.identification, console)
    print(f"{output}: {_megabytes(output)}, {len(written.contents.languages):,} languages")


def _check_one(folders: Sequence[Path], shards: Sequence[Path]) -> None:
    others = [folder for folder in folders if folder not in shards]
    if others:
        raise ArgumentError(
            f"{shards[0]} is a folder of shards, {others[0]} is not",
            remedy="report on runs and on shards in two calls",
        )
    if len({folder.resolve() for folder in shards}) > 1:
        raise ArgumentError(
            f"{shards[0]} and {shards[1]} are two folders of shards",
            remedy="give one of them; a page shows all sources of one folder",
        )


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"
