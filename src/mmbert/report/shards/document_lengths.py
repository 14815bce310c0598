"""Distribution of the lengths of documents, read from index files."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# Lengths from here on are counted together. Above, quantiles are lower bounds.
_LONGEST = 1 << 20
_AT_ONCE = 1 << 22
BINS = 32


@dataclass(frozen=True)
class DocumentLengths:
    """Number of documents by length in tokens."""

    counts: npt.NDArray[np.int64]
    """[length]: documents of that length; the last entry has those of `_LONGEST` and more."""
    maximum: int

    @property
    def documents(self) -> int:
        """Number of documents."""
        return int(self.counts.sum())

    def quantile(self, fraction: float) -> int:
        """Return the smallest length that at least `fraction` of the documents do not exceed."""
        wanted = fraction * self.documents
        return int(np.searchsorted(np.cumsum(self.counts), wanted, side="left"))

    def by_power_of_two(self) -> npt.NDArray[np.int64]:
        """Return documents of 2^n to 2^(n+1) - 1 tokens [BINS]; the empty ones are with n = 0."""
        lengths = np.arange(len(self.counts))
        bins = np.frexp(np.maximum(lengths, 1))[1] - 1
        return np.bincount(bins, weights=self.counts, minlength=BINS).astype(np.int64)


def count_lengths(shards: Iterable[npt.NDArray[np.int32]]) -> DocumentLengths:
    """Count the lengths in the index of each shard."""
    counts = np.zeros(1, dtype=np.int64)
    maximum = 0
    for lengths in shards:
        for start in range(0, len(lengths), _AT_ONCE):
            part = lengths[start : start + _AT_ONCE]
            maximum = max(maximum, int(part.max()))
            found = np.bincount(np.minimum(part, _LONGEST), minlength=len(counts))
            found[: len(counts)] += counts
            counts = found
    return DocumentLengths(counts, maximum)
