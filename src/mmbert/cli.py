"""The `mmbert` command: what is done with recipes, shards, runs and models besides training."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mmbert.errors import EXIT_USER_ERROR, UserError

# Commands import what they need when they run: torch takes seconds, `--help` should not.
app = typer.Typer(
    help="Pretrain multilingual encoders: plan, inspect, export, import, merge, evaluate.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.command(epilog="Example: `mmbert doctor`")
def doctor() -> None:
    """Print versions, devices, backends, the kernels that will be used, and what is missing."""
    from mmbert.doctor import examine, render

    render(examine(), Console())


def main() -> None:
    """Entry point: a UserError becomes exit status 2 with its message and remedy."""
    try:
        app()
    except UserError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {error}", markup=False)
        sys.exit(EXIT_USER_ERROR)


if __name__ == "__main__":
    main()
