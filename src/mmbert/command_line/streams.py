"""Standard output and error of any encoding, closed, or read by a program that ends early.

Imports only the standard library: the collection of wheels runs on a bare interpreter.
"""

import os
import sys
from contextlib import suppress
from typing import TextIO

STATUS_OF_CLOSED_OUTPUT = 1
"""Exit status when nobody reads the output any more, as click has it."""


def prepare_streams() -> None:
    r"""Make the standard streams accept any text, and write each line at once.

    A character that the encoding lacks, or a path's byte that is no text, is written as `\u2192`. A
    closed stream becomes one that discards, so that no data file gets its number.
    """
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            _discard(descriptor)
            setattr(sys, name, os.fdopen(descriptor, "w", encoding="utf-8", closefd=False))
        with suppress(AttributeError, OSError, ValueError):
            getattr(sys, name).reconfigure(errors="backslashreplace", line_buffering=True)


def discard_output() -> None:
    """Discard all later standard output, whose reader has ended."""
    with suppress(AttributeError, OSError, ValueError):
        _discard(sys.stdout.fileno())


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether `stream` is open and a terminal."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def _discard(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    if null != descriptor:
        os.dup2(null, descriptor)
        os.close(null)
