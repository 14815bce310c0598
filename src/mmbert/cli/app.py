"""Typer application, extended by the command modules, and its output console."""

import sys

import typer
from rich.console import Console

app = typer.Typer(
    help="Plan and inspect pretraining runs; export, import, merge and evaluate their models.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)


def examples(*commands: str) -> str:
    """Return the epilog of a command's help, one paragraph per example."""
    return "\n\n".join(["Examples:", *(f"`{command}`" for command in commands)])


def console_for_output() -> Console:
    """Return a console on standard output, 140 columns wide if that is not a terminal."""
    return Console() if sys.stdout.isatty() else Console(width=140)
