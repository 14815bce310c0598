"""Interface of metric loggers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class RunInfo:
    """Description of the run for loggers."""

    folder: Path
    name: str
    first_step: int
    """First step after a start or resume. Entries logged earlier for later steps are void."""
    steps: int
    """Number of steps in the whole plan."""
    phases: tuple[str, ...] = ()
    """Names of the phases; also the names of the language tiers."""
    largest_languages: tuple[str, ...] = ()
    rate_groups: tuple[str, ...] = ()
    """Groups of parameters with a learning rate of their own."""


class BaseLogger:
    """Base class of metric loggers. Methods do nothing unless overridden.

    A logger is constructed as `Logger(run_info)`. Any method may raise OSError or UserError; the
    run then saves a checkpoint, stops and reports the error (see `LoggerContainer`).
    """

    target: str
    """Destination of the logger, for error messages."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log scalars by tag."""

    def histogram(self, step: int, tag: str, values: npt.NDArray[np.float64]) -> None:
        """Log the distribution of `values`, which are not empty."""

    def text(self, tag: str, text: str) -> None:
        """Log a text in Markdown."""

    def record(self, record: Mapping[str, Any]) -> None:
        """Log the whole record of an interval, under the keys of `log.jsonl`."""

    def event(self, kind: str, step: int, text: str, details: Mapping[str, Any]) -> None:
        """Log an event: a phase, a checkpoint, a skipped step."""

    def message(self, text: str) -> None:
        """Show a message to the user."""

    def progress(self, step: int) -> None:
        """Show the number of completed steps, `step`; called in every step, must write no file."""

    def rewind(self, step: int) -> None:
        """Continue from `step` after a rollback; later entries are void."""

    def sync(self) -> None:
        """Flush everything to disk before a checkpoint is saved."""

    def close(self) -> None:
        """Finish writing."""
