"""Progress of all workers: each writes counters to a small file, rank 0 displays their sums."""

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
_LINE_SECONDS = 30.0  # interval of log lines; the first one is printed after a third of it
_READING = "reading-"


class Meter:
    """Counters of one worker in a stage: progress, documents, bytes, tokens."""

    def __init__(self, folder: Path, stage: str, rank: int) -> None:
        self._path = folder / f"{stage}-{rank}"
        self._values = [0, 0, 0, 0]
        self._written = 0.0
        self._file = open(self._path, "wb", buffering=0)  # noqa: SIM115
        self._reading = folder / f"{_READING}{rank}"

    def add(self, progress: int = 0, documents: int = 0, size: int = 0, tokens: int = 0) -> None:
        """Add to the counters. The file is updated at most four times per second."""
        for index, value in enumerate((progress, documents, size, tokens)):
            self._values[index] += value
        if time.monotonic() - self._written > _WRITE_SECONDS:
            self._write()

    def reading(self, path: str) -> None:
        """Record the file being read, to report it if a library crashes on it."""
        with contextlib.suppress(OSError):
            self._reading.write_text(path, encoding="utf-8", errors="surrogateescape")

    def _write(self) -> None:
        self._written = time.monotonic()
        with contextlib.suppress(OSError):  # a full disk is reported by the writers of results
            self._file.seek(0)
            self._file.write(_RECORD.pack(*self._values))

    def close(self) -> None:
        """Write the final counts."""
        self._write()
        self._file.close()
        self._reading.unlink(missing_ok=True)


class ProgressBar:
    """Progress of a stage over all workers, with tokens/s and time left; shown by rank 0.

    A bar on a terminal; a line every 30 s elsewhere (Slurm logs, mpirun).
    """

    def __init__(
        self, console: Console, folder: Path, stage: str, title: str, total: int, done: int
    ) -> None:
        self._folder, self._stage, self._done = folder, stage, done
        self._console, self._title, self._total = console, title, max(1, total)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
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
        if not self._progress.disable:  # rich 13.7 would add an empty line to the log
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
        """Return the total progress, the speed of this run, and the remaining or elapsed time."""
        progress, documents, size, tokens = read_meters(self._folder, self._stage)
        seconds = max(1e-3, time.monotonic() - self._begin)
        speed = f"{documents:,} documents" if documents else ""
        if tokens:
            speed += f", {tokens / seconds / 1e6:.2f} M tokens/s, {size / seconds / 1e6:.1f} MB/s"
        remaining = self._total - self._done - progress
        left = ""
        if remaining <= 0:
            left = f"in {timedelta(seconds=round(seconds))}"
        elif progress:
            left = f"{timedelta(seconds=round(remaining * seconds / progress))} left"
        return self._done + progress, speed, left

    def _draw(self) -> None:
        progress, speed, left = self._read()
        self._progress.update(self._task, completed=progress, speed=speed, left=left)

    def _print_line(self) -> None:
        progress, speed, left = self._read()
        parts = (f"{self._title}: {progress / self._total:.1%}", speed, left)
        self._console.print(", ".join(filter(None, parts)), soft_wrap=True, highlight=False)


def files_being_read(folder: Path) -> list[str]:
    """Return the files that workers were reading when they ended abruptly."""
    return sorted(
        {path.read_text("utf-8", "surrogateescape") for path in folder.glob(f"{_READING}*")}
    )


def read_meters(folder: Path, stage: str) -> tuple[int, int, int, int]:
    """Return the sums over workers: progress, documents, bytes, tokens."""
    sums = [0, 0, 0, 0]
    for path in folder.glob(f"{stage}-*"):
        data = path.read_bytes()
        if len(data) == _RECORD.size:
            sums = [total + value for total, value in zip(sums, _RECORD.unpack(data), strict=True)]
    return sums[0], sums[1], sums[2], sums[3]
