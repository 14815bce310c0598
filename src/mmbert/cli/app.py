"""The application object that commands are added to, and where they print."""

import sys

import typer
from rich.console import Console

app = typer.Typer(
    help="Pretrain multilingual encoders: plan, inspect, export, import, merge, evaluate.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)


def console_for_output() -> Console:
    """Standard output; what is piped into a file is not folded to a narrow terminal."""
    return Console() if sys.stdout.isatty() else Console(width=140)
