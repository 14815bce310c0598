"""The `mmbert` command: what is done with recipes, shards, runs and models besides training."""

import sys

from rich.console import Console

from mmbert.cli import ablate_command as ablating
from mmbert.cli import inspect_commands as inspecting
from mmbert.cli import model_commands as models
from mmbert.cli.app import app
from mmbert.errors import EXIT_USER_ERROR, UserError

__all__ = ["ablating", "app", "inspecting", "main", "models"]


def main() -> None:
    """Entry point: a UserError becomes exit status 2 with its message and remedy."""
    try:
        app()
    except UserError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {error}", markup=False)
        sys.exit(EXIT_USER_ERROR)
