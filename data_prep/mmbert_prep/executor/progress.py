"""Progress across all workers: each writes its counters to a small file, the leader shows them."""

from __future__ import annotations

import contextlib
import struct
import threading
import time
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
)

_RECORD = struct.Struct("<qqqq")
_WRITE_SECONDS = 0.25
_DRAW_SECONDS = 0.5
_LINE_SECONDS = 30.0  # between the lines of a log file, the first after a third of it
_READING = "reading-"


class Meter:
    """One worker's counters of the present stage: work done (weight), documents, bytes, tokens."""

    def __init__(self, folder: Path, stage: str, rank: int) -> None:
        self._path = folder / f"{stage}-{rank}"
        self._values = [0, 0, 0, 0]
        self._written = 0.0
        self._file = open(self._path, "wb", buffering=0)  # noqa: SIM115
        self._reading = folder / f"{_READING}{rank}"

    def add(self, weight: int = 0, documents: int = 0, size: int = 0, tokens: int = 0) -> None:
        """Count work; written a few times a second."""
        for index, value in enumerate((weight, documents, size, tokens)):
            self._values[index] += value
        if time.monotonic() - self._written > _WRITE_SECONDS:
            self._write()

    def reading(self, path: str) -> None:
        """Note which file is read: should a library crash on it, its name is what is left."""
        with contextlib.suppress(OSError):
            self._reading.write_text(path, encoding="utf-8", errors="surrogateescape")

    def _write(self) -> None:
        self._written = time.monotonic()
        with contextlib.suppress(OSError):  # a full disk is reported by what matters
            self._file.seek(0)
            self._file.write(_RECORD.pack(*self._values))

    def close(self) -> None:
        """Write the last counts."""
        self._write()
        self._file.close()
        self._reading.unlink(missing_ok=True)


class ProgressBar:
    """Shows a stage's sums over all workers with tokens/s and time left, in the leader.

    On a terminal as a bar; elsewhere (a Slurm job's log, mpirun) as a line now and then.
    """

    def __init__(
        self, console: Console, folder: Path, stage: str, title: str, total: int, done: int
    ) -> None:
        self._folder, self._stage, self._done = folder, stage, done
        self._console, self._title, self._total = console, title, max(1, total)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=10),
            TextColumn("{task.percentage:>5.1f}%"),
            TextColumn("{task.fields[speed]}"),
            TextColumn("{task.fields[left]}"),
            console=console,
            refresh_per_second=2,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(
            title, total=self._total, completed=done, speed="", left=""
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._begin = time.monotonic()

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self._draw()
        if not self._progress.disable:  # else rich 13.7 ends it with an empty line in the log
            self._progress.stop()

    def _run(self) -> None:
        next_line = self._begin + _LINE_SECONDS / 3
        while not self._stop.wait(_DRAW_SECONDS):
            if self._console.is_terminal:
                self._draw()
            elif time.monotonic() >= next_line:
                self._print_line()
                next_line += _LINE_SECONDS

    def _read(self) -> tuple[int, str, str]:
        """Weight done, by whomever and whenever; this run's speed; the time left or taken."""
        weight, documents, size, tokens = read_meters(self._folder, self._stage)
        seconds = max(1e-3, time.monotonic() - self._begin)
        speed = f"{documents:,} documents" if documents else ""
        if tokens:
            speed += f", {tokens / seconds / 1e6:.2f} M tokens/s, {size / seconds / 1e6:.1f} MB/s"
        rest = self._total - self._done - weight
        left = ""
        if rest <= 0:
            left = f"in {timedelta(seconds=round(seconds))}"
        elif weight:
            left = f"{timedelta(seconds=round(rest * seconds / weight))} left"
        return self._done + weight, speed, left

    def _draw(self) -> None:
        weight, speed, left = self._read()
        self._progress.update(self._task, completed=weight, speed=speed, left=left)

    def _print_line(self) -> None:
        weight, speed, left = self._read()
        reported = (f"{self._title}: {weight / self._total:.1%}", speed, left)
        self._console.print(", ".join(filter(None, reported)), soft_wrap=True, highlight=False)


def files_being_read(folder: Path) -> list[str]:
    """What workers were reading that ended without closing their meters."""
    return sorted(
        {path.read_text("utf-8", "surrogateescape") for path in folder.glob(f"{_READING}*")}
    )


def read_meters(folder: Path, stage: str) -> tuple[int, int, int, int]:
    """Sums over workers: weight, documents, bytes, tokens."""
    sums = [0, 0, 0, 0]
    for path in folder.glob(f"{stage}-*"):
        data = path.read_bytes()
        if len(data) == _RECORD.size:
            sums = [total + value for total, value in zip(sums, _RECORD.unpack(data), strict=True)]
    return sums[0], sums[1], sums[2], sums[3]
