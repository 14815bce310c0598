"""Which ranks are slow, from the time of every rank's own work in each of the last steps.

All ranks wait for the slowest one, so a step's duration says nothing about a rank; its own work
does. Ranks are compared step by step, because what delays all of them in a step (its rows, other
programs on the machine) then cancels, and over the last 60 steps by the median, because single
steps are delayed by what does not last. The reference is the median rank, of an even number the
faster of the two in the middle, so that of two ranks, or of two nodes, the slow one is named.

A rank is slow if its own work took longer than the reference's

- by at least 8%, half of what is to be found within 100 steps,
- by at least 4% in each third of these steps: neither a short disturbance nor a few rows, and
- by more than chance, which is 4.9 standard errors for two ranks and 6.0 for 1,024: where equal
  ranks' steps differ much, 8% can be chance, and a long run compares many ranks many times.

It is no longer slow after 60 steps of whose thirds each is below 4%. Slowness of more than half of
the ranks cannot be told from a model that takes long.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from mmbert.training.metrics.own_work import WINDOW

SLOW = 0.08
LASTING = 0.04
THIRDS = 3
# Probability that equal ranks with normal deviations reach the limit in one window, any of them.
CHANCE = 1e-6
# Of normal values: distance of the quartiles, and standard error of the median of n values times
# the root of n, both in standard deviations.
QUARTILES_APART = 1.349
MEDIAN_ERROR = float(np.sqrt(np.pi / 2))

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SlowRank:
    """A rank's work, compared with the reference's; seconds per row."""

    rank: int
    excess: float
    """Fraction by which its own work takes longer, by the median over the steps."""
    own: float
    reference: float
    waiting: float
    """Time in collectives, since the last log line."""
    reference_waiting: float


@dataclass(frozen=True)
class Changes:
    """What the steps of a log line have changed."""

    begun: tuple[SlowRank, ...] = ()
    """Ranks that are slow now and were not before, by rank."""
    ended: tuple[SlowRank, ...] = ()


class SlowRanks:
    """Names slow ranks when it begins and when it ends. The same on all ranks."""

    def __init__(self, ranks: int) -> None:
        self.slow: set[int] = set()
        self._own: Floats = np.empty((ranks, 0))
        self._standard_errors = -NormalDist().inv_cdf(CHANCE / ranks)

    def add(self, own: Floats, waiting: Floats) -> Changes:
        """Add the own work of steps [ranks, steps] and the time in collectives [ranks]."""
        self._own = np.concatenate((self._own, own), axis=1)[:, -WINDOW:]
        if self._own.shape[1] < WINDOW:
            return Changes()
        location, error, reference = _compare(self._own)
        difference = location - location[reference]
        # Of two ranks, what one is above their mean the other is below.
        errors = error + 2 / len(error) * error[reference]
        thirds = np.stack(
            [
                part_location - part_location[reference]
                for part in np.split(self._own, THIRDS, axis=1)
                for part_location, _, _ in (_compare(part),)
            ]
        )
        slow = (
            (difference > np.log1p(SLOW))
            & (thirds > np.log1p(LASTING)).all(0)
            & (difference > self._standard_errors * errors)
        )
        fine = (thirds < np.log1p(LASTING)).all(0)
        begun = sorted({*np.flatnonzero(slow).tolist()} - self.slow)
        ended = sorted({*np.flatnonzero(fine).tolist()} & self.slow)
        self.slow = (self.slow | {*begun}) - {*ended}
        seconds = np.median(self._own, axis=1)

        def described(rank: int) -> SlowRank:
            return SlowRank(
                rank,
                excess=float(np.expm1(difference[rank])),
                own=float(seconds[rank]),
                reference=float(seconds[reference]),
                waiting=float(waiting[rank]),
                reference_waiting=float(waiting[reference]),
            )

        return Changes(tuple(map(described, begun)), tuple(map(described, ended)))

    def ratios(self) -> Floats:
        """Return every rank's own work over the last steps, divided by the reference's."""
        location, _, reference = _compare(self._own)
        return np.asarray(np.exp(location - location[reference]))


def _compare(own: Floats) -> tuple[Floats, Floats, int]:
    """Return each rank's place among the ranks, its standard error, and the reference rank.

    Args:
        own: seconds [ranks, steps].

    Returns:
        Median over the steps of the logarithm of own work, less the step's mean over the ranks,
        [ranks]; its standard error [ranks]; the rank of the lower median place.
    """
    logarithms = np.log(np.maximum(own, 1e-9))  # a clock may be coarse
    logarithms -= logarithms.mean(axis=0)
    lower, location, upper = np.percentile(logarithms, (25, 50, 75), axis=1)
    error = MEDIAN_ERROR * (upper - lower) / QUARTILES_APART / np.sqrt(own.shape[1])
    reference = np.argsort(location, kind="stable")[(len(location) - 1) // 2]
    return location, error, int(reference)
