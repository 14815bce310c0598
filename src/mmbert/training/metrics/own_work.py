"""A rank's own work in the steps since the last log line, to be compared with other ranks."""

from collections.abc import Iterable

import numpy as np

from mmbert.training.metrics.step_timer import StepWork

# Steps that ranks are compared over. A log line sends no more, however long its interval is.
WINDOW = 60
# Not measured after a start, a rollback and the begin of a phase: memory is allocated, kernels are
# compiled or tuned for new shapes, files are not in memory yet.
WARM_UP_STEPS = 10


class OwnWork:
    """Steps of this rank. Every rank counts the same steps, so that they can be compared."""

    def __init__(self, *, skipped_steps: int = 0) -> None:
        """Args:
        skipped_steps: number of first steps to leave out besides the warm-up.
        """
        self._steps: list[StepWork] = []
        self._skip = WARM_UP_STEPS + skipped_steps

    def restart(self) -> None:
        """Leave out the steps of a warm-up."""
        self._skip = max(self._skip, WARM_UP_STEPS)

    def add(self, steps: Iterable[StepWork]) -> None:
        """Count steps."""
        for step in steps:
            if self._skip:
                self._skip -= 1
            else:
                self._steps.append(step)

    def take(self) -> list[float]:
        """Return, and forget, the newest steps: median waiting, then own work of each step.

        Seconds per row, at most 1 + `WINDOW` numbers; empty without a step.
        """
        steps, self._steps = self._steps[-WINDOW:], []
        if not steps:
            return []
        waiting = float(np.median([step.waiting for step in steps]))
        return [waiting, *(step.own for step in steps)]
