"""The `mmbert` command: what is done with recipes, shards, runs and models besides training."""

import sys

from rich.console import Console

from mmbert.cli import ablate_command, inspect_commands, model_commands, packaged_commands
from mmbert.cli.app import app
from mmbert.errors import EXIT_USER_ERROR, UserError

__all__ = [
    "ablate_command",
    "app",
    "inspect_commands",
    "main",
    "model_commands",
    "packaged_commands",
]


def main() -> None:
    """Entry point: a UserError becomes exit status 2 with its message and remedy."""
    try:
        app()
    except UserError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {error}", markup=False)
        sys.exit(EXIT_USER_ERROR)
