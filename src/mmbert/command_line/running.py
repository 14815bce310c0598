"""Running of a command line: every error that a user can fix is one message and status 2.

Shared by all programs with a Typer application, so that a wrong option, a path that cannot be used
and an error of the program itself read alike.
"""

import errno
import os
import sys
from typing import Any

import typer

from mmbert.command_line.streams import (
    STATUS_OF_CLOSED_OUTPUT,
    discard_output,
    prepare_streams,
)
from mmbert.errors import EXIT_USER_ERROR, UserError

EXIT_INTERRUPTED = 130

# ClickException and UsageError of click, or of the copy that newer versions of typer bundle.
_ClickError: type[Exception] = typer.BadParameter.__mro__[2]

# What a wrong path, missing rights or a full disk cause; others are faults of the program.
_OF_PATHS = frozenset(
    getattr(errno, name)
    for name in (
        "EACCES", "EDQUOT", "EEXIST", "EISDIR", "ELOOP", "ENAMETOOLONG", "ENOENT", "ENOSPC",
        "ENOTDIR", "EPERM", "EROFS", "EILSEQ",
    )
    if hasattr(errno, name)
)  # fmt: skip


def run_application(app: typer.Typer) -> int:
    """Run `app` on the arguments of the process; print an error; return the exit status.

    Exceptions that are not the user's are raised. The status is 1 if nobody reads the output, as
    of `… | head -1`.
    """
    prepare_streams()
    try:
        status = _run(app)
        sys.stdout.flush()
    except BrokenPipeError:
        discard_output()
        return STATUS_OF_CLOSED_OUTPUT
    except SystemExit as leaving:
        if not isinstance(leaving.__context__, BrokenPipeError):
            raise
        return STATUS_OF_CLOSED_OUTPUT  # from click, which discards the output itself
    except OSError as error:
        return print_error(
            f"the output cannot be written: {error.strerror}\n"
            "  → check the space on the disk that it is written to"
        )
    return status


def _run(app: typer.Typer) -> int:
    try:
        return int(app(standalone_mode=False) or 0)
    except UserError as error:
        return print_error(str(error))
    except _ClickError as error:
        return _print_usage_error(error)
    except (typer.Abort, KeyboardInterrupt):
        print("interrupted; run the same command again to continue", file=sys.stderr)
        return EXIT_INTERRUPTED
    except OSError as error:
        described = describe_path_error(error)
        if described is None:
            raise
        return print_error(described)


def print_error(text: str) -> int:
    """Print an error on standard error; return the exit status of user errors."""
    print(f"error: {text}", file=sys.stderr, flush=True)
    return EXIT_USER_ERROR


def describe_path_error(error: OSError) -> str | None:
    """Describe an error of the file system with its path; None for an error of another kind."""
    if error.errno not in _OF_PATHS or error.filename is None:
        return None
    name = error.filename2 if error.errno == errno.EEXIST and error.filename2 else error.filename
    return (
        f"{os.fsdecode(name) if isinstance(name, bytes) else name}: {error.strerror}\n"
        "  → check the path, its permissions and the space on its disk"
    )


def _print_usage_error(error: Any) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":  # the message is the whole help
        error.show()
        return EXIT_USER_ERROR
    context = getattr(error, "ctx", None)
    program = "" if context is None else f"{context.command_path} "
    return print_error(f"{error.format_message()}\n  → see {program}--help")
