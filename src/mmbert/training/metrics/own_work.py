"""Blocks of steps: how long a rank's own work took in them, to be compared with other ranks.

A block is described by the median over its steps, because single steps are delayed by what has
nothing to do with a node (the collection of garbage, a page that is not in memory). Its standard
error says how far the medians of equal ranks differ by chance: rows have documents of different
lengths.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmbert.training.metrics.step_timer import StepWork

BLOCK_STEPS = 20
# Not measured after a start, a rollback and the begin of a phase: memory is allocated, kernels are
# compiled or tuned for new shapes, files are not in memory yet.
WARM_UP_STEPS = 10
# Blocks that a log line sends; with more steps between two lines the earlier ones are left out.
SENT_BLOCKS = 8
# Normal values: distance of the quartiles, and standard error of the median of n values times the
# root of n, both in standard deviations.
QUARTILES_APART = 1.349
MEDIAN_ERROR = float(np.sqrt(np.pi / 2))


@dataclass(frozen=True)
class WorkBlock:
    """Work of all ranks in one block; float64 [ranks], seconds per row."""

    own: npt.NDArray[np.float64]
    error: npt.NDArray[np.float64]
    """Standard error of `own`."""
    waiting: npt.NDArray[np.float64]

    @classmethod
    def from_numbers(cls, numbers: npt.NDArray[np.float64]) -> "list[WorkBlock]":
        """Return the blocks, oldest first, from what every rank's `OwnWork.take()` returned.

        Args:
            numbers: float64 [ranks, 3 * blocks].
        """
        return [cls(*block) for block in numbers.reshape(len(numbers), -1, 3).transpose(1, 2, 0)]


class OwnWork:
    """Blocks of this rank's steps. Every rank counts the same steps, so that blocks match."""

    def __init__(self, *, skipped_steps: int = 0) -> None:
        """Args:
        skipped_steps: number of first steps to leave out besides the warm-up.
        """
        self._numbers: list[float] = []
        self.restart()
        self._skip += skipped_steps

    def restart(self) -> None:
        """Forget the unfinished block and begin with a warm-up."""
        self._steps: list[StepWork] = []
        self._skip = WARM_UP_STEPS

    def add(self, steps: Iterable[StepWork]) -> None:
        """Count steps."""
        for step in steps:
            if self._skip:
                self._skip -= 1
                continue
            self._steps.append(step)
            if len(self._steps) == BLOCK_STEPS:
                self._numbers += _describe(self._steps)
                self._steps = []

    def take(self) -> list[float]:
        """Return the newest finished blocks since the last call: own, error, waiting of each."""
        numbers, self._numbers = self._numbers[-3 * SENT_BLOCKS :], []
        return numbers


def _describe(steps: Sequence[StepWork]) -> tuple[float, float, float]:
    lower, own, upper = np.percentile([step.own for step in steps], (25, 50, 75))
    deviation = (upper - lower) / QUARTILES_APART
    error = MEDIAN_ERROR * deviation / np.sqrt(len(steps))
    return float(own), float(error), float(np.median([step.waiting for step in steps]))
