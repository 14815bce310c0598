"""Training runs started by other commands with the user's launcher, and their interruption."""

import os
import shlex
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from mmbert.errors import EXIT_SAVED_START_AGAIN, ArgumentError
from mmbert.training.fault_tolerance.stop_request import STOP_FILE, StopRequest

POLL_SECONDS = 0.3
LOG_TAIL_LINES = 15


class RunIncompleteError(Exception):
    """A run failed or was stopped; `status` is the exit status of the command."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def split_words(option: str, text: str) -> list[str]:
    """Split the value of an option into words as a shell does. Raises ArgumentError."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ArgumentError(
            f"{option} {text!r} cannot be split into words: {error}", remedy="close the quotation"
        ) from error


def launcher_command(launch: str) -> list[str]:
    """Split the launch command into words.

    Raises:
        UserError: the program or script does not exist.
    """
    words = split_words("--launch", launch)
    missing = [word for word in words if word.endswith(".py") and not Path(word).is_file()]
    if not words or shutil.which(words[0]) is None:
        missing = words[:1] or ["a command"]
    if missing:
        raise ArgumentError(
            f"--launch '{launch}': {missing[0]} not found",
            remedy="start it in the repository with .venv/bin on PATH, or give --launch a command "
            "such as 'deepspeed --num_gpus 8 --module mmbert.pretrain'",
        )
    return words


def run_training(title: str, command: Sequence[str], folder: Path, log: Path) -> None:
    """Run a training `command` to completion; forward stop requests as a STOP file in `folder`.

    Args:
        title: name of the run in messages.
        command: launcher, program and options.
        folder: the run folder.
        log: file to which the output of the command is appended.

    Raises:
        RunIncompleteError: the run failed or was stopped; the same call continues it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stop = StopRequest(folder)
    stop_file, asked = folder / STOP_FILE, False
    with log.open("ab") as file:
        # In a new session, because Ctrl-C would kill `deepspeed` before the ranks have saved.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        while (status := process.poll()) is None:
            if stop.reason() is not None and not stop_file.exists():
                stop_file.touch()
                asked = True
            time.sleep(POLL_SECONDS)
        stopped = stop.reason() is not None
    finally:
        if process.poll() is None:  # second Ctrl-C
            process.terminate()
        if asked:  # another's request to stop is not this command's to remove
            stop_file.unlink(missing_ok=True)
        stop.close()
    if status == EXIT_SAVED_START_AGAIN or (status == 0 and stopped):
        raise RunIncompleteError(
            f"{title} was stopped after saving; repeat the command to continue",
            EXIT_SAVED_START_AGAIN,
        )
    if status:
        raise RunIncompleteError(
            f"{title} failed with exit status {status}; last lines of {log}:\n"
            f"{_tail(log)}\n"
            "  → fix the cause and repeat the command: finished work is not repeated",
            exit_status(status),
        )


def exit_status(returned: int) -> int:
    """Return the exit status of a process; 128 + signal number if a signal ended it."""
    return returned if returned >= 0 else 128 - returned


def _tail(log: Path) -> str:
    with log.open(encoding="utf-8", errors="replace") as lines:
        return "".join(deque(lines, maxlen=LOG_TAIL_LINES)).rstrip(os.linesep)
