"""Near-duplicates of a language: a document is dropped if it is similar to an earlier kept one.

Documents are similar if their signatures agree in a whole band and in `matches` values. The first
document is kept; each following one is kept unless it is similar to one that was kept before it.
So each dropped document has a kept one that it is similar to, and no two kept ones are similar,
which also separates held-out from training documents. Chains do not drop more: of A ~ B ~ C, where
A and C are not similar, A and C stay, whereas clusters would lose C's text.

The documents are taken in blocks that fit into the memory limit. The kept ones of a block are
found first; they then drop documents of all later ones, which are read once per block. The result
does not depend on the size of the blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmbert.data.shards.manifest import NearDuplicates
from mmbert_prep.shards.intermediate import Section, read_signatures

_READ_AT_ONCE = 16_384  # signatures
_PAIRS_AT_ONCE = 16_384
_FEW = 256  # documents that are all compared with each other
_COMMON = 1000  # documents with one key
_COUNTERS = 1 << 21
_COUNTER_SHIFT = np.uint64(64 - 21)
# Memory that does not depend on the size of the blocks.
_FIXED_BYTES = 24_000_000
# Arrays of one band while it is sorted, and the place of a document.
_SORTING_BYTES = 40
# Multipliers of a hash. Where it is equal for different values, this only costs a comparison.
_FACTORS = np.random.default_rng(0).integers(0, 1 << 63, 1025, dtype=np.uint64) * 2 + 1

_Table = tuple[np.ndarray, np.ndarray]
"""Sorted keys of one band, uint64[n], and the rows of the documents that have them, int32[n]."""


@dataclass(frozen=True)
class Signatures:
    """Signatures of the documents of a language in intermediate shards, in document order."""

    folder: Path
    sections: tuple[tuple[str, Section], ...]
    """Unit key and section."""
    plan: NearDuplicates

    def read(self, first: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the places and signatures of the documents from `first` on, some at once."""
        start = 0
        for key, section in self.sections:
            for skip in range(max(0, first - start), section.documents, _READ_AT_ONCE):
                count = min(_READ_AT_ONCE, section.documents - skip)
                rows = section.first_document + skip
                values = read_signatures(self.folder, key, rows, count, self.plan.permutations)
                yield start + skip, values
            start += section.documents


class _Bands:
    """Keys of the documents' bands: equal keys make two documents a pair to compare.

    Where very many documents have a key, as pages made from one template do, which are neither
    near-duplicates nor unlike, most pairs would be in vain and their number quadratic. There the
    next band must agree as well.
    """

    def __init__(self, plan: NearDuplicates) -> None:
        self.plan = plan
        self._counts = np.zeros(_COUNTERS, dtype=np.uint32)
        self._documents = 0

    def count(self, values: np.ndarray, rows: np.ndarray) -> None:
        """Count the keys of documents, all of which must be counted before `keys` is called."""
        self._documents += len(rows)
        for band in range(self.plan.bands):
            np.add.at(self._counts, self._hashes(values, rows, band) >> _COUNTER_SHIFT, 1)

    def keys(self, values: np.ndarray, rows: np.ndarray, band: int) -> np.ndarray:
        """Return the key of each document in a band, uint64[rows]."""
        keys = self._hashes(values, rows, band)
        # Keys share counters: the mean of a counter is no sign of a common key.
        limit = _COMMON + 2 * self._documents * self.plan.bands // _COUNTERS
        common = self._counts[keys >> _COUNTER_SHIFT] > limit
        if common.any():
            following = self._hashes(values, rows[common], (band + 1) % self.plan.bands)
            keys[common] += following * _FACTORS[-1]
        return keys

    def _hashes(self, values: np.ndarray, rows: np.ndarray, band: int) -> np.ndarray:
        columns = slice(band * self.plan.rows, (band + 1) * self.plan.rows)
        hashes = np.empty(len(rows), dtype=np.uint64)
        for start in range(0, len(rows), _READ_AT_ONCE):
            some = values[rows[start : start + _READ_AT_ONCE], columns].astype(np.uint64)
            hashes[start : start + _READ_AT_ONCE] = some @ _FACTORS[columns]
        return hashes


def documents_per_block(plan: NearDuplicates, memory: int) -> int:
    """Return the number of documents that are compared at once within `memory` bytes."""
    per_document = 2 * plan.permutations + 12 * plan.bands + _SORTING_BYTES
    return max(_FEW, (memory - _FIXED_BYTES) // per_document)


def mark_near_duplicates(
    signatures: Signatures, statuses: np.ndarray, mark: int, memory: int
) -> None:
    """Set to `mark` the statuses of documents that are similar to an earlier kept one.

    `statuses`: uint8[documents]; only documents whose status is 0 are compared.
    """
    bands = _Bands(signatures.plan)
    for start, some in signatures.read(0):
        bands.count(some, np.flatnonzero(statuses[start : start + len(some)] == 0))
    limit = documents_per_block(signatures.plan, memory)
    first = 0
    while first < len(statuses):
        first = _mark_block(signatures, bands, statuses, mark, first, limit)


def _mark_block(
    signatures: Signatures,
    bands: _Bands,
    statuses: np.ndarray,
    mark: int,
    first: int,
    limit: int,
) -> int:
    """Decide on a block and what it drops of later ones; return the place after the block."""
    places, values = _next_block(signatures, statuses, first, limit)
    kept = _keep_first(values, bands)
    statuses[places[~kept]] = mark
    end = int(places[-1]) + 1 if len(places) == limit else len(statuses)
    if end < len(statuses):
        tables = _tables(values, np.flatnonzero(kept), bands)
        for start, later in signatures.read(end):
            view = statuses[start : start + len(later)]
            rows = np.flatnonzero(view == 0)
            view[rows[_similar(later, rows, values, tables, bands)]] = mark
    return end


def _next_block(
    signatures: Signatures, statuses: np.ndarray, first: int, limit: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return places and signatures of the next documents to compare, at most `limit`."""
    size = min(limit, len(statuses) - first - int(np.count_nonzero(statuses[first:])))
    places = np.empty(size, dtype=np.int64)
    values = np.empty((size, signatures.plan.permutations), dtype=np.uint16)
    filled = 0
    for start, some in signatures.read(first):
        rows = np.flatnonzero(statuses[start : start + len(some)] == 0)[: size - filled]
        places[filled : filled + len(rows)] = rows + start
        values[filled : filled + len(rows)] = some[rows]
        filled += len(rows)
        if filled == size:
            break
    return places, values


def _keep_first(values: np.ndarray, bands: _Bands) -> np.ndarray:
    """Return which of the documents are kept, bool[n], in their order."""
    shares = np.zeros(len(values), dtype=bool)
    everything = np.arange(len(values))
    for band in range(bands.plan.bands):
        keys, rows = _table(values, everything, band, bands)
        equal = keys[1:] == keys[:-1]
        shares[rows[1:][equal]] = shares[rows[:-1][equal]] = True
    kept = ~shares
    kept[_keep_first_of(np.flatnonzero(shares), values, bands)] = True
    return kept


def _keep_first_of(rows: np.ndarray, values: np.ndarray, bands: _Bands) -> np.ndarray:
    """Return the kept ones of `rows`: those of the first half, then what they leave of the rest."""
    if len(rows) <= _FEW:
        return _keep_first_of_few(rows, values, bands)
    half = len(rows) // 2
    kept = _keep_first_of(rows[:half], values, bands)
    similar = _similar(values, rows[half:], values, _tables(values, kept, bands), bands)
    rest = _keep_first_of(rows[half:][~similar], values, bands)
    return np.concatenate([kept, rest])


def _keep_first_of_few(rows: np.ndarray, values: np.ndarray, bands: _Bands) -> np.ndarray:
    keys = np.stack([bands.keys(values, rows, band) for band in range(bands.plan.bands)], axis=1)
    similar = np.triu((keys[:, None] == keys[None]).any(axis=-1), 1)
    first, second = np.nonzero(similar)
    matches = np.count_nonzero(values[rows[first]] == values[rows[second]], axis=1)
    similar[first, second] = matches >= bands.plan.matches
    kept = np.ones(len(rows), dtype=bool)
    for row in np.flatnonzero(similar.any(axis=1)):
        if kept[row]:
            kept &= ~similar[row]
    return rows[kept]


def _table(values: np.ndarray, rows: np.ndarray, band: int, bands: _Bands) -> _Table:
    keys = bands.keys(values, rows, band)
    order = np.argsort(keys, kind="stable")
    return keys[order], rows[order].astype(np.int32)


def _tables(values: np.ndarray, rows: np.ndarray, bands: _Bands) -> list[_Table]:
    return [_table(values, rows, band, bands) for band in range(bands.plan.bands)]


def _similar(
    values: np.ndarray,
    rows: np.ndarray,
    earlier: np.ndarray,
    tables: list[_Table],
    bands: _Bands,
) -> np.ndarray:
    """Return which documents of `rows` of `values` are similar to one in `tables`, bool[rows].

    `earlier`: signatures to which the rows in `tables` refer.
    """
    similar = np.zeros(len(rows), dtype=bool)
    for start in range(0, len(rows), _READ_AT_ONCE):
        found = similar[start : start + _READ_AT_ONCE]
        some = rows[start : start + _READ_AT_ONCE]
        for band, (keys, owners) in enumerate(tables):
            left = np.flatnonzero(~found)
            wanted = bands.keys(values, some[left], band)
            order = np.argsort(wanted)  # neighboring searches stay in the cache
            left, wanted = left[order], wanted[order]
            low = np.searchsorted(keys, wanted)
            hit = keys[np.minimum(low, len(keys) - 1)] == wanted
            left, wanted, low = left[hit], wanted[hit], low[hit]
            counts = np.searchsorted(keys, wanted, side="right") - low
            for pairs, places in _pairs(low, counts):
                pairs = left[pairs]
                open_ = ~found[pairs]
                pairs, others = pairs[open_], owners[places[open_]]
                matches = np.count_nonzero(values[some[pairs]] == earlier[others], axis=1)
                found[pairs[matches >= bands.plan.matches]] = True
    return similar


def _pairs(low: np.ndarray, counts: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (index into `low`, place) of all places from `low` to `low + counts`, some at once."""
    ends = np.cumsum(counts)
    for start in range(0, int(ends[-1]) if len(ends) else 0, _PAIRS_AT_ONCE):
        numbers = np.arange(start, min(start + _PAIRS_AT_ONCE, int(ends[-1])))
        index = np.searchsorted(ends, numbers, side="right")
        yield index, low[index] + numbers - (ends[index] - counts[index])
