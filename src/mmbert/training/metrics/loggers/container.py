"""Container of a run's metric loggers.

Metrics have already been summed over all ranks.

A full disk, or another owner of the run folder, must not make a single rank leave a step. The error
is therefore kept in `failure`, and logging ends. All ranks receive the failure with the scalars of
the next step; they save, unless the folder is another's, and exit.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmbert.errors import OutputError, UserError
from mmbert.files import NoSpaceError, lacks_space
from mmbert.ownership import Unowned
from mmbert.training.metrics.loggers.base_logger import BaseLogger, RunInfo
from mmbert.training.metrics.loggers.console_logger import ConsoleLogger
from mmbert.training.metrics.loggers.jsonl_logger import JsonlLogger
from mmbert.training.metrics.loggers.tensorboard_logger import TensorBoardLogger

ALWAYS: tuple[Callable[[RunInfo], BaseLogger], ...] = (ConsoleLogger, JsonlLogger)
LOGGERS: dict[str, Callable[[RunInfo], BaseLogger]] = {
    "tensorboard": TensorBoardLogger,
}


class LoggerContainer:
    """Forwards every call to all loggers; does nothing if not `active` (ranks other than 0)."""

    def __init__(self, *, active: bool, owner: Unowned | None = None) -> None:
        """Create the container.

        Args:
            owner: ownership of the run folder, which is checked before each write.
        """
        self.active, self._owner = active, owner or Unowned()
        self.failure: UserError | None = None
        """Error that ended logging."""
        self._loggers: list[BaseLogger] = []

    def open(self, run: RunInfo, names: Sequence[str]) -> None:
        """Create the console and `log.jsonl` loggers, and the loggers of `LOGGERS` in `names`."""

        def build() -> None:
            for make in (*ALWAYS, *(LOGGERS[name] for name in names)):
                self._loggers.append(make(run))

        self.attempt(run.folder, build)

    def attempt(self, what: Path | str, write: Callable[[], None]) -> None:
        """Run `write` on rank 0 and keep any OSError or UserError in `failure`.

        Nothing is written if the run folder has another owner.
        """
        self._try(what, self._owner.check)
        self._try(what, write)

    def _try(self, what: Path | str, action: Callable[[], None]) -> None:
        if not self.active or self.failure is not None:
            return
        try:
            action()
        except OSError as error:
            kind = NoSpaceError if lacks_space(error) else OutputError
            self.failure = kind(
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
        """Show the number of completed steps, `step`."""
        self._each(lambda logger: logger.progress(step), writes=False)

    def record(self, record: Mapping[str, Any]) -> None:
        """Log the whole record of an interval, under the keys of `log.jsonl`."""
        self._each(lambda logger: logger.record(record))

    def log(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Log scalars by tag, skipping None values."""
        present = {tag: value for tag, value in metrics.items() if value is not None}
        self._each(lambda logger: logger.log(step, present))

    def histogram(self, step: int, tag: str, values: npt.NDArray[np.float64]) -> None:
        """Log the distribution of `values`, if not empty."""
        if len(values):
            self._each(lambda logger: logger.histogram(step, tag, values))

    def text(self, tag: str, text: str) -> None:
        """Log a text in Markdown."""
        self._each(lambda logger: logger.text(tag, text))

    def sync(self) -> None:
        """Flush to disk before a checkpoint is saved, so that none of its steps lacks log lines."""
        self._each(lambda logger: logger.sync())

    def rewind(self, step: int) -> None:
        """Continue from `step` after a rollback."""
        self._each(lambda logger: logger.rewind(step))

    def close(self) -> None:
        """Close every logger."""
        for logger in self._loggers:
            # Closing flushes what a full disk has already rejected.
            with contextlib.suppress(OSError):
                logger.close()

    def _each(self, write: Callable[[BaseLogger], None], *, writes: bool = True) -> None:
        if writes:
            self._try("the log", self._owner.check)
        for logger in self._loggers:
            self._try(logger.target, partial(write, logger))
