"""Progress across all workers: each writes its counters to a small file, the leader draws a bar."""

from __future__ import annotations

import contextlib
import struct
import threading
import time
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_RECORD = struct.Struct("<qqqq")
_WRITE_SECONDS = 0.25
_DRAW_SECONDS = 0.5
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
    """Shows a stage's sums over all workers with tokens/s and time left, in the leader."""

    def __init__(
        self, console: Console, folder: Path, stage: str, title: str, total: int, done: int
    ) -> None:
        self._folder, self._stage, self._done = folder, stage, done
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>5.1f}%"),
            TextColumn("{task.fields[speed]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            refresh_per_second=2,
        )
        self._task = self._progress.add_task(title, total=max(1, total), completed=done, speed="")
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
        self._progress.stop()

    def _run(self) -> None:
        while not self._stop.wait(_DRAW_SECONDS):
            self._draw()

    def _draw(self) -> None:
        weight, documents, size, tokens = read_meters(self._folder, self._stage)
        seconds = max(1e-3, time.monotonic() - self._begin)
        speed = f"{documents:,} documents" if documents else ""
        if tokens:
            speed += f", {tokens / seconds / 1e6:.2f} M tokens/s, {size / seconds / 1e6:.1f} MB/s"
        self._progress.update(self._task, completed=self._done + weight, speed=speed)


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
