"""Console output: messages, one line per logging interval, and a progress bar on a terminal."""

import contextlib
import sys
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from mmbert.command_line.console import PlainConsole
from mmbert.command_line.streams import discard_output
from mmbert.training.metrics.loggers.base_logger import BaseLogger, RunInfo


class ConsoleLogger(BaseLogger):
    """Prints messages, events and the main metrics of each interval."""

    target = "the standard output"

    def __init__(self, run: RunInfo) -> None:
        self._console = PlainConsole(highlight=False)
        self._bar = tqdm(
            total=run.steps,
            initial=run.first_step,
            unit="step",
            dynamic_ncols=True,
            file=sys.stderr,
            disable=not sys.stderr.isatty(),
        )

    def message(self, text: str) -> None:
        """Print a line; if nobody reads the output any more, say so once and train on."""
        self._bar.clear()
        try:
            self._console.print(text)
            sys.stdout.flush()
        except BrokenPipeError:
            discard_output()
            with contextlib.suppress(OSError):
                print("the output is closed; training goes on, see log.jsonl", file=sys.stderr)

    def event(self, kind: str, step: int, text: str, details: Mapping[str, Any]) -> None:
        """Print the event's text."""
        self.message(text)

    def record(self, record: Mapping[str, Any]) -> None:
        """Print the main metrics."""
        self.message(format_line(record))

    def progress(self, step: int) -> None:
        """Update the progress bar."""
        self._bar.n = step
        self._bar.refresh()

    def close(self) -> None:
        """Remove the progress bar."""
        self._bar.close()


def format_line(record: Mapping[str, Any]) -> str:
    """Format the console line of one interval."""
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
    """Format a count with three digits: `983k`, `1.20M`, `2.30T`."""
    for suffix, factor in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:.3g}{suffix}"
    return f"{value:g}"


def format_seconds(seconds: float) -> str:
    """Format a duration with its two largest units: `3d 4h`, `12m 5s`."""
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
