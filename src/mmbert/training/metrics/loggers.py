"""What the watcher sees: a line on the screen, `RUN/log.jsonl`, TensorBoard. Rank 0 alone writes.

The figures arrive here already summed over all ranks. `log.jsonl` is only ever appended to: after a
restart a step may stand there twice, and the later line holds.

A disk that is full must not tear one rank out of the step: the error is kept in `failure`, nothing
more is written, and all ranks hear of it with the next step's figures, save and leave.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt
from rich.console import Console
from tqdm import tqdm

from mmbert.errors import UserError
from mmbert.files import sync_folder
from mmbert.training.metrics.tensorboard_logger import CustomScalarsLayout, TensorBoardLogger


class LoggerContainer:
    """Writes for rank 0; on the other ranks (`active` false) every call does nothing."""

    def __init__(self, run_folder: Path, *, active: bool) -> None:
        self.active = active
        self.failure: UserError | None = None
        """Why nothing is written any more."""
        self._log_path = run_folder / "log.jsonl"
        self._tensorboard_folder = run_folder / "tensorboard"
        self._console = Console(highlight=False, soft_wrap=True)
        self._log: TextIO | None = None
        self._tensorboard: TensorBoardLogger | None = None
        self._bar: Any = None

    def open(self, first_step: int, steps: int, layout: CustomScalarsLayout) -> None:
        """Open the files for a run of `steps` steps that (again) begins at `first_step`.

        TensorBoard drops what an earlier attempt wrote from there on. `charts`: its charts of
        several curves.
        """
        if not self.active:
            return

        def open_files() -> None:
            _truncate_partial_line(self._log_path)
            self._log = self._log_path.open("a", buffering=1)
            sync_folder(self._log_path.parent)
            self._tensorboard = TensorBoardLogger(self._tensorboard_folder, first_step)
            self._tensorboard.custom_scalars(layout)

        self.attempt(self._log_path.parent, open_files)
        self._bar = tqdm(
            total=steps,
            initial=first_step,
            unit="step",
            dynamic_ncols=True,
            file=sys.stderr,
            disable=not sys.stderr.isatty(),
        )

    def attempt(self, what: Path | str, write: Callable[[], None]) -> None:
        """Do `write` on the rank that writes; an error of the disk becomes `failure`."""
        if not self.active or self.failure is not None:
            return
        try:
            write()
        except OSError as error:
            self.failure = UserError(
                f"{what} cannot be written: {error.strerror}",
                remedy="free space (or raise the quota) or mend the disk, then start the same "
                "command again: it continues from the newest sound checkpoint",
            )
        except UserError as error:  # a full disk, explained already
            self.failure = error

    def say(self, text: str) -> None:
        """A line for the person who watches."""

        def print_line() -> None:
            if self._bar is not None:
                self._bar.clear()
            self._console.print(text, markup=False)
            sys.stdout.flush()

        self.attempt("the standard output", print_line)

    def event(self, kind: str, step: int, text: str, **details: Any) -> None:
        """Something that happens now and then (a phase, a checkpoint, a skipped step)."""
        self.say(text)
        self._write({"event": kind, "step": step, "text": text, **details})

    def advance(self, step: int) -> None:
        """Move the progress bar to `step` done."""
        if self.active:
            self._bar.n = step
            self._bar.refresh()

    def line(self, record: dict[str, Any]) -> None:
        """One log interval: `record` goes to log.jsonl as it is, its essence to the screen."""
        self.say(format_line(record))
        self._write(record)

    def scalars(self, step: int, values: Mapping[str, float | None]) -> None:
        """Scalars for TensorBoard by tag; None is left out."""
        self._to_tensorboard(lambda tensorboard: tensorboard.scalars(step, values))

    def histogram(self, step: int, tag: str, values: npt.NDArray[np.float64]) -> None:
        """A distribution for TensorBoard."""
        self._to_tensorboard(lambda tensorboard: tensorboard.histogram(step, tag, values))

    def text(self, tag: str, text: str) -> None:
        """A text for TensorBoard."""
        self._to_tensorboard(lambda tensorboard: tensorboard.text(tag, text))

    def sync(self) -> None:
        """Flush the log to the disk: no line of it must be missing before a checkpoint."""

        def flush() -> None:
            assert self._log is not None, "open() comes first"
            os.fsync(self._log.fileno())

        self.attempt(self._log_path, flush)

    def rewind(self, step: int) -> None:
        """The run has gone back to `step`."""
        self._to_tensorboard(lambda tensorboard: tensorboard.rewind(step))

    def close(self) -> None:
        """Close the files."""
        if self._bar is not None:
            self._bar.close()
        for file in (self._tensorboard, self._log):
            if file is not None:
                # What a full disk refused is refused again.
                with contextlib.suppress(OSError):
                    file.close()

    def _write(self, record: dict[str, Any]) -> None:
        def append() -> None:
            assert self._log is not None, "open() comes first"
            self._log.write(json.dumps({"time": round(time.time(), 3), **record}) + "\n")

        self.attempt(self._log_path, append)

    def _to_tensorboard(self, write: Callable[[TensorBoardLogger], None]) -> None:
        def write_tensorboard() -> None:
            assert self._tensorboard is not None, "open() comes first"
            write(self._tensorboard)

        self.attempt(self._tensorboard_folder, write_tensorboard)


def _truncate_partial_line(log: Path) -> None:
    """Take away the half line at the end of `log` that a crash or a full disk left, if any."""
    if not log.is_file():
        return
    content = log.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(log, whole)


def format_line(record: dict[str, Any]) -> str:
    """The line of one interval on the screen."""
    parts = [
        f"step {record['step']}/{record['steps']}",
        record["phase"],
        f"{format_count(record['tokens'])} tokens",
        f"loss {record['loss']:.4f}",
        f"lr {record['learning_rate']:.2e}",
        f"grad {record['gradient_norm']:.3f}",
        f"{record['tokens_per_second']:,.0f} tok/s",
    ]
    if record.get("mfu") is not None:
        parts.append(f"MFU {record['mfu']:.1%}")
    parts.append(
        f"phase ETA {format_seconds(record['seconds_left_in_phase'])}, "
        f"total {format_seconds(record['seconds_left'])}"
    )
    return " · ".join(parts)


def format_count(value: float) -> str:
    """A count with three digits: `983k`, `1.20M`, `2.30T`."""
    for suffix, factor in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:.3g}{suffix}"
    return f"{value:g}"


def format_seconds(seconds: float) -> str:
    """A duration with its two largest units: `3d 4h`, `12m 5s`."""
    whole = round(seconds)
    units = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))
    for position, (size, name) in enumerate(units):
        if whole >= size or size == 1:
            text = f"{whole // size}{name}"
            if position + 1 < len(units):
                smaller, small_name = units[position + 1]
                text += f" {whole % size // smaller}{small_name}"
            return text
    raise AssertionError("unreachable: the last unit is one second")
