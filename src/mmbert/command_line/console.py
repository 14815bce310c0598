"""The console of all commands: text is printed as it is, in any width.

Paths, names of languages and messages hold brackets, colons and blanks. rich would take them for
markup and emoji, and break them at the end of a line.
"""

import errno
import os
import sys
from typing import NoReturn

from rich.console import Console

from mmbert.command_line.streams import is_terminal

_WIDTH = 140


class PlainConsole(Console):
    """A rich console without markup, emoji and wrapping; tables have the width of the terminal.

    Standard output or error; 140 columns wide, or COLUMNS, if that is not a terminal.
    """

    def __init__(self, *, stderr: bool = False, highlight: bool = True) -> None:
        given = os.environ.get("COLUMNS", "")
        measured = is_terminal(sys.stderr if stderr else sys.stdout)
        wide = given.isascii() and given.isdigit() and int(given) > 0
        super().__init__(
            stderr=stderr,
            width=None if measured or wide else _WIDTH,
            markup=False,
            emoji=False,
            highlight=highlight,
            soft_wrap=True,
        )

    def on_broken_pipe(self) -> NoReturn:
        """Let the caller decide; rich would end the program."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
