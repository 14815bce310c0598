"""`mmbert report`: one HTML page of one or several runs."""

from pathlib import Path
from typing import Annotated

import typer

from mmbert.cli.app import app, examples
from mmbert.command_line.values import parse_path


@app.command(
    epilog=examples(
        "mmbert report my_run",
        "mmbert report my_run other_run --output comparison.html",
    )
)
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            parser=parse_path, metavar="RUN", help="Run folders, finished or under way."
        ),
    ],
    output: Annotated[Path, typer.Option(parser=parse_path, help="HTML file to write.")] = Path(
        "report.html"
    ),
) -> None:
    """Write a page with the losses, languages, speed, faults and recipe of one or several runs.

    The page is a single file that loads nothing: it can be mailed, archived and read offline.
    """
    from mmbert.report.page import write_report

    written = write_report(runs, output)
    for warning in written.warnings:
        typer.echo(f"warning: {warning}", err=True)
    count = len(written.runs)
    size = output.stat().st_size / 1e6
    typer.echo(f"{output}: {size:.1f} MB, {count} run{'' if count == 1 else 's'}")
