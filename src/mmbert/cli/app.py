"""Typer application, extended by the command modules, and its output console."""

from collections.abc import Mapping

import typer

from mmbert.command_line.console import PlainConsole
from mmbert.errors import ArgumentError

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


def refuse_given(options: Mapping[str, object], why: str, remedy: str) -> None:
    """Raise ArgumentError if one of the options, by name, is given: neither None nor false."""
    given = next((name for name, value in options.items() if value not in (None, False)), None)
    if given is not None:
        raise ArgumentError(f"{given} does not apply: {why}", remedy=remedy)


def console_for_output() -> PlainConsole:
    """Return a console on standard output."""
    return PlainConsole()
