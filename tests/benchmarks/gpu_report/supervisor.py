"""Runs the parts one after another, each in a process with its own time limit.

A part that fails does not stop the next. The remaining time is divided among the remaining parts by
their shares, so that time that one part does not need goes to the others.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO

import psutil

from tests.benchmarks.gpu_report.verification import FOLDER_VARIABLE
from tests.support.sessions import GRACE_SECONDS, end_session

# Kept for the page at the end.
PAGE_SECONDS = 4.0
LAST_LINES = 12


@dataclass(frozen=True)
class Part:
    """A part of the report."""

    name: str
    title: str
    command: tuple[str, ...]
    share: float
    """Share of the report's time, relative to the other parts."""
    max_seconds: float = float("inf")
    min_seconds: float = 1.0
    """The part is not started with less time."""
    needs_gpu: bool = True


class Ending(StrEnum):
    """How a part ended."""

    DONE = "done"
    FAILED = "failed"
    OUT_OF_TIME = "out of time"
    INTERRUPTED = "interrupted"
    NOT_BEGUN = "not begun"


@dataclass(frozen=True)
class Outcome:
    """Outcome of a part."""

    name: str
    title: str
    ending: Ending
    seconds: float
    reason: str = ""
    last_lines: tuple[str, ...] = ()
    """Last lines of its output, unless it is done."""


def limit_for(parts: Sequence[Part], left: float) -> float:
    """Return the time limit of the first of `parts` if all of them have `left` seconds together."""
    return min(parts[0].max_seconds, left * parts[0].share / sum(part.share for part in parts))


def run_parts(
    parts: Sequence[Part],
    folder: Path,
    seconds: float,
    *,
    environment: dict[str, str],
    directory: Path,
    blocker: Callable[[], str] = lambda: "",
    on_outcome: Callable[[list[Outcome]], None] = lambda outcomes: None,
    clock: Callable[[], float] = time.monotonic,
) -> list[Outcome]:
    """Run the parts within `seconds`. An interruption ends the running part.

    Args:
        blocker: returns why a part that needs a GPU cannot run, "" if it can.
        on_outcome: called with all outcomes so far after each part.
    """
    end = clock() + seconds - PAGE_SECONDS
    outcomes: list[Outcome] = []
    try:
        for number, part in enumerate(parts):
            limit = max(0.0, limit_for(parts[number:], end - clock()))
            print(f"\n== {part.title} (at most {limit:.0f} s)", flush=True)
            missing = blocker() if part.needs_gpu else ""
            if missing:
                outcome = Outcome(part.name, part.title, Ending.NOT_BEGUN, 0.0, missing)
            elif limit < part.min_seconds:
                reason = f"{limit:.0f} s were left, it needs {part.min_seconds:.0f}"
                outcome = Outcome(part.name, part.title, Ending.NOT_BEGUN, 0.0, reason)
            else:
                outcome = run_part(
                    part, folder, limit, environment=environment, directory=directory
                )
            print(f"== {part.title}: {outcome.ending}{_because(outcome)}", flush=True)
            outcomes.append(outcome)
            on_outcome(outcomes)
    finally:  # an interruption may come before the part's process is known
        for child in psutil.Process().children():
            end_session(child.pid)
    return outcomes


def _because(outcome: Outcome) -> str:
    return f" ({outcome.reason})" if outcome.reason else f" in {outcome.seconds:.0f} s"


def run_part(
    part: Part, folder: Path, limit: float, *, environment: dict[str, str], directory: Path
) -> Outcome:
    """Run a part, print and log its output; at the limit, kill it with all of its processes."""
    begun = time.monotonic()
    process = subprocess.Popen(
        part.command,
        cwd=directory,
        env=environment | {FOLDER_VARIABLE: str(folder.resolve())},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    assert process.stdout is not None
    heard: list[str] = []
    listener = threading.Thread(
        target=_listen, args=(process.stdout, folder / f"{part.name}.txt", heard), daemon=True
    )
    listener.start()
    ending, reason = Ending.DONE, ""
    try:
        status = process.wait(limit)
        if status != 0:
            ending, reason = Ending.FAILED, f"status {status}"
    except subprocess.TimeoutExpired:
        ending, reason = Ending.OUT_OF_TIME, f"stopped after {limit:.0f} s"
    finally:
        end_session(process.pid)
        process.wait()
    listener.join(GRACE_SECONDS)
    last_lines = () if ending is Ending.DONE else tuple(heard[-LAST_LINES:])
    taken = time.monotonic() - begun
    return Outcome(part.name, part.title, ending, taken, reason, last_lines)


def _listen(pipe: IO[str], log: Path, heard: list[str]) -> None:
    with log.open("w", encoding="utf-8") as file:
        for line in pipe:
            sys.stdout.write(line)
            sys.stdout.flush()
            file.write(line)
            file.flush()
            heard.append(line.rstrip("\n"))
