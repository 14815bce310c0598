"""All metric loggers of a run behind one object.

Metrics arrive here already summed over all ranks.

A full disk must not take one rank out of a step: the error is kept in `failure`, nothing more is
written, and all ranks learn of it with the scalars of the next step, save and leave.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmbert.errors import UserError
from mmbert.training.metrics.loggers.base_logger import BaseLogger, RunInfo
from mmbert.training.metrics.loggers.console_logger import ConsoleLogger
from mmbert.training.metrics.loggers.jsonl_logger import JsonlLogger
from mmbert.training.metrics.loggers.tensorboard_logger import TensorBoardLogger

ALWAYS: tuple[Callable[[RunInfo], BaseLogger], ...] = (ConsoleLogger, JsonlLogger)
LOGGERS: dict[str, Callable[[RunInfo], BaseLogger]] = {
    "tensorboard": TensorBoardLogger,
}


class LoggerContainer:
    """Passes every call on to each logger; does nothing on ranks other than 0 (`active` false)."""

    def __init__(self, *, active: bool) -> None:
        self.active = active
        self.failure: UserError | None = None
        """Why nothing is written any more."""
        self._loggers: list[BaseLogger] = []

    def open(self, run: RunInfo, names: Sequence[str]) -> None:
        """Build the console and `log.jsonl` loggers and those of `LOGGERS` that `names` lists."""

        def build() -> None:
            for make in (*ALWAYS, *(LOGGERS[name] for name in names)):
                self._loggers.append(make(run))

        self.attempt(run.folder, build)

    def attempt(self, what: Path | str, write: Callable[[], None]) -> None:
        """Run `write` on rank 0; an error of the disk becomes `failure`."""
        if not self.active or self.failure is not None:
            return
        try:
            write()
        except OSError as error:
            self.failure = UserError(
                f"{what} cannot be written: {error.strerror}",
                remedy="free space (or raise the quota) or repair the disk, then run the same "
                "command again: it resumes from the newest valid checkpoint",
            )
        except UserError as error:  # a full disk, with a remedy already
            self.failure = error

    def message(self, text: str) -> None:
        """Show a message to the user."""
        self._each(lambda logger: logger.message(text))

    def event(self, kind: str, step: int, text: str, **details: Any) -> None:
        """Log an event: a phase, a checkpoint, a skipped step."""
        self._each(lambda logger: logger.event(kind, step, text, details))

    def progress(self, step: int) -> None:
        """Show that `step` steps are done."""
        self._each(lambda logger: logger.progress(step))

    def record(self, record: Mapping[str, Any]) -> None:
        """Log the whole record of an interval, under the keys of `log.jsonl`."""
        self._each(lambda logger: logger.record(record))

    def log(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Log scalars by tag, leaving out None."""
        present = {tag: value for tag, value in metrics.items() if value is not None}
        self._each(lambda logger: logger.log(step, present))

    def histogram(self, step: int, tag: str, values: npt.NDArray[np.float64]) -> None:
        """Log the distribution of `values`, unless there are none."""
        if len(values):
            self._each(lambda logger: logger.histogram(step, tag, values))

    def text(self, tag: str, text: str) -> None:
        """Log a text in Markdown."""
        self._each(lambda logger: logger.text(tag, text))

    def sync(self) -> None:
        """Flush to disk: no line may be missing before a checkpoint."""
        self._each(lambda logger: logger.sync())

    def rewind(self, step: int) -> None:
        """Continue from `step` after a rollback."""
        self._each(lambda logger: logger.rewind(step))

    def close(self) -> None:
        """Close every logger."""
        for logger in self._loggers:
            # What a full disk refused is refused again.
            with contextlib.suppress(OSError):
                logger.close()

    def _each(self, write: Callable[[BaseLogger], None]) -> None:
        for logger in self._loggers:
            self.attempt(logger.target, lambda logger=logger: write(logger))  # type: ignore[misc]
