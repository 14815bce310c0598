"""The interface of a metric logger."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class RunInfo:
    """What a logger may want to know about the run."""

    folder: Path
    name: str
    first_step: int
    """Where training starts or resumes. What an earlier attempt logged from here on is void."""
    steps: int
    """Steps of the whole plan."""
    phases: tuple[str, ...] = ()
    """Names of the phases; also the names of the language tiers."""
    largest_languages: tuple[str, ...] = ()


class BaseLogger:
    """Base class of metric loggers. Every method does nothing unless overridden.

    A logger is built as `Logger(run_info)`. It may raise OSError or UserError anywhere: the run
    then saves a checkpoint, stops and reports the error (see `LoggerContainer`).
    """

    target: str
    """Where the logger writes, for error messages."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log scalars by tag."""

    def histogram(self, step: int, tag: str, values: npt.NDArray[np.float64]) -> None:
        """Log the distribution of `values`, of which there is at least one."""

    def text(self, tag: str, text: str) -> None:
        """Log a text in Markdown."""

    def record(self, record: Mapping[str, Any]) -> None:
        """Log the whole record of an interval, under the keys of `log.jsonl`."""

    def event(self, kind: str, step: int, text: str, details: Mapping[str, Any]) -> None:
        """Log an event: a phase, a checkpoint, a skipped step."""

    def message(self, text: str) -> None:
        """Show a message to the user."""

    def progress(self, step: int) -> None:
        """Show that `step` steps are done."""

    def rewind(self, step: int) -> None:
        """Continue from `step` after a rollback; later entries are void."""

    def sync(self) -> None:
        """Flush everything to disk, because a checkpoint is about to be saved."""

    def close(self) -> None:
        """Finish writing."""
