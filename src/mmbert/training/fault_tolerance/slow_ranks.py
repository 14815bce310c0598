"""Which ranks are slow, from the time of every rank's own work in blocks of steps.

All ranks wait for the slowest one, so a step's duration says nothing about a rank; its own work
does. The reference is the median rank, of an even number the faster of the two in the middle, so
that of two ranks, or of two nodes, the slow one is named.

A rank is slow after three consecutive blocks

- in each of which its work took at least 8% longer than the reference's: half of what is to be
  found, and more than equal ranks differ persistently; and
- over which it took longer by six standard errors: with rows of unequal work, or on a machine with
  other programs, 8% can be chance, and in a long run there are many ranks and blocks.

It is no longer slow after three consecutive blocks with less than 4%. Slowness of more than half of
the ranks cannot be told from a model that takes long.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmbert.training.metrics.own_work import WorkBlock

BLOCKS = 3
SLOW = 0.08
RECOVERED = 0.04
STANDARD_ERRORS = 6.0


@dataclass(frozen=True)
class SlowRank:
    """A rank's work over the last blocks, compared with the reference's; seconds per row."""

    rank: int
    own: float
    reference: float
    waiting: float
    reference_waiting: float

    @property
    def excess(self) -> float:
        """Fraction by which the rank's own work takes longer."""
        return self.own / self.reference - 1


@dataclass(frozen=True)
class Changes:
    """What a block has changed."""

    begun: tuple[SlowRank, ...] = ()
    """Ranks that are slow now and were not before, by rank."""
    ended: tuple[SlowRank, ...] = ()


class SlowRanks:
    """Names slow ranks when it begins and when it ends. The same on all ranks."""

    def __init__(self) -> None:
        self.slow: set[int] = set()
        self._blocks: deque[WorkBlock] = deque(maxlen=BLOCKS)

    def add(self, block: WorkBlock) -> Changes:
        """Add a block and return what it has changed."""
        self._blocks.append(block)
        if len(self._blocks) < BLOCKS:
            return Changes()
        references = [reference_rank(block) for block in self._blocks]
        excess = np.stack([over_reference(block) - 1 for block in self._blocks])
        error = np.stack(
            [
                np.hypot(block.error, block.error[reference]) / block.own[reference]
                for block, reference in zip(self._blocks, references, strict=True)
            ]
        )
        certain = excess.sum(0) > STANDARD_ERRORS * np.sqrt(np.square(error).sum(0))
        slow = np.flatnonzero((excess > SLOW).all(0) & certain)
        fine = np.flatnonzero((excess < RECOVERED).all(0))
        begun = sorted({*slow.tolist()} - self.slow)
        ended = sorted({*fine.tolist()} & self.slow)
        self.slow = (self.slow | {*begun}) - {*ended}
        return Changes(
            tuple(self._describe(rank) for rank in begun),
            tuple(self._describe(rank) for rank in ended),
        )

    def _describe(self, rank: int) -> SlowRank:
        seconds = [
            (block.own[rank], block.own[other], block.waiting[rank], block.waiting[other])
            for block in self._blocks
            for other in (reference_rank(block),)
        ]
        return SlowRank(rank, *np.mean(seconds, axis=0).tolist())


def reference_rank(block: WorkBlock) -> int:
    """Return the rank with the (lower) median time of own work."""
    middle = (len(block.own) - 1) // 2
    return int(np.argsort(block.own, kind="stable")[middle])


def over_reference(block: WorkBlock) -> npt.NDArray[np.float64]:
    """Return every rank's time of own work, divided by the reference's."""
    ratios: npt.NDArray[np.float64] = block.own / block.own[reference_rank(block)]
    return ratios
