"""What the watcher sees: a line on the screen, `RUN/log.jsonl`, TensorBoard. Rank 0 alone writes.

The figures arrive here already summed over all ranks. `log.jsonl` is only ever appended to: after a
restart a step may stand there twice, and the later line holds.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from tqdm import tqdm


class Reporter:
    """Writes for rank 0; on the other ranks (`active` false) every call does nothing."""

    def __init__(self, run_folder: Path, *, active: bool) -> None:
        self.active = active
        self._run_folder = run_folder
        self._console = Console(highlight=False, soft_wrap=True)
        self._log: TextIO | None = None
        self._board: Any = None
        self._bar: Any = None

    def open(self, first_step: int, steps: int) -> None:
        """Open the files for a run of `steps` steps that (again) begins at `first_step`.

        TensorBoard drops what an earlier attempt wrote from there on.
        """
        if not self.active:
            return
        # Imported here: it takes seconds, and only this rank needs it.
        from torch.utils.tensorboard import SummaryWriter

        self._log = (self._run_folder / "log.jsonl").open("a", buffering=1)
        self._board = SummaryWriter(str(self._run_folder / "tensorboard"), purge_step=first_step)
        self._bar = tqdm(
            total=steps,
            initial=first_step,
            unit="step",
            dynamic_ncols=True,
            file=sys.stderr,
            disable=not sys.stderr.isatty(),
        )

    def say(self, text: str) -> None:
        """A line for the person who watches."""
        if self.active:
            if self._bar is not None:
                self._bar.clear()
            self._console.print(text, markup=False)
            sys.stdout.flush()

    def event(self, kind: str, step: int, text: str, **details: Any) -> None:
        """Something that happens now and then (a phase, a checkpoint, a skipped step)."""
        if self.active:
            self.say(text)
            self._write({"event": kind, "step": step, "text": text, **details})

    def advance(self, step: int) -> None:
        """Move the progress bar to `step` done."""
        if self.active:
            self._bar.n = step
            self._bar.refresh()

    def line(self, record: dict[str, Any]) -> None:
        """One log interval: `record` goes to log.jsonl as it is, its essence to the screen."""
        if self.active:
            self.say(format_line(record))
            self._write(record)

    def scalars(self, step: int, values: dict[str, float | None]) -> None:
        """Scalars for TensorBoard by tag; None is left out."""
        if self.active:
            for tag, value in values.items():
                if value is not None:
                    self._board.add_scalar(tag, value, step)

    def text(self, tag: str, text: str) -> None:
        """A text for TensorBoard."""
        if self.active:
            self._board.add_text(tag, text)

    def flush(self) -> None:
        """Bring everything to disk."""
        if self.active:
            self._board.flush()

    def close(self) -> None:
        """Close the files."""
        if self._bar is not None:
            self._bar.close()
            self._board.close()
        if self._log is not None:
            self._log.close()

    def _write(self, record: dict[str, Any]) -> None:
        assert self._log is not None, "open() comes first"
        self._log.write(json.dumps({"time": round(time.time(), 3), **record}) + "\n")


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
        f"{format_seconds(record['seconds_left_in_phase'])} left in phase, "
        f"{format_seconds(record['seconds_left'])} in all"
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
