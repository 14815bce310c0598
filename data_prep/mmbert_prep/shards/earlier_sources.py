"""Documents of a language that an earlier source of the same call has already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmbert_prep.shards.deduplicate_and_split import (
    DocumentStatus,
    FoundDocuments,
    LanguageSections,
)
from mmbert_prep.shards.intermediate import map_documents

_HASHES_PER_PASS = 8_000_000  # bounds the memory of the comparison, about 100 bytes each
_NOT_FOUND = 255


@dataclass(frozen=True)
class EarlierSource:
    """A language of a source that comes before this one."""

    name: str
    language: LanguageSections
    units: Path
    """Folder of its intermediate shards."""
    statuses: Path
    """File with uint8[documents]: `DocumentStatus` of each document."""


def find_in_earlier_sources(
    language: LanguageSections, folder: Path, earlier: Sequence[EarlierSource]
) -> FoundDocuments:
    """Look for the documents of a language in earlier sources, by content hash.

    A document that an earlier source dropped, such as one beyond its token cap, does not count.
    Each pass covers one residue class of hashes.
    """
    found = np.full(language.documents, _NOT_FOUND, dtype=np.uint8)
    counts = np.zeros(len(earlier), dtype=np.int64)
    documents = language.documents + sum(each.language.documents for each in earlier)
    passes = -(-documents // _HASHES_PER_PASS)
    for number in range(passes):
        parts = list(_labeled_hashes(language, folder, earlier, number, passes))
        high, low, label = (np.concatenate(part) for part in zip(*parts, strict=True))
        order = np.lexsort((low, high))  # stable: of equal texts, that of the first source is first
        high, low, label = high[order], low[order], label[order]
        again = np.zeros(len(label), dtype=bool)
        again[1:] = (high[1:] == high[:-1]) & (low[1:] == low[:-1])
        first = label[np.maximum.accumulate(np.where(again, 0, np.arange(len(label))))]
        own = (label >= 0) & (first < 0)
        source, status = np.divmod(-first[own] - 1, 2)
        found[label[own]] = status
        counts += np.bincount(source, minlength=len(earlier))
    return FoundDocuments(
        found == DocumentStatus.TRAIN,
        found == DocumentStatus.HELDOUT,
        {each.name: int(n) for each, n in zip(earlier, counts, strict=True) if n},
    )


def _labeled_hashes(
    language: LanguageSections,
    folder: Path,
    earlier: Sequence[EarlierSource],
    number: int,
    passes: int,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield the hashes of a pass, high and low half, with an int64 label each.

    Label of a document of this source: its place. Of one that the earlier source i kept with
    status s: -1 - 2 · i - s.
    """
    for index, source in enumerate(earlier):
        statuses = np.load(source.statuses, mmap_mode="r")
        for start, documents in _sections(source.language, source.units):
            status = np.asarray(statuses[start : start + len(documents)]).astype(np.int64)
            high = np.asarray(documents["high"])
            kept = (status == DocumentStatus.TRAIN) | (status == DocumentStatus.HELDOUT)
            kept &= high % np.uint64(passes) == number
            yield high[kept], np.asarray(documents["low"])[kept], -1 - 2 * index - status[kept]
    for start, documents in _sections(language, folder):
        high = np.asarray(documents["high"])
        chosen = high % np.uint64(passes) == number
        places = np.arange(start, start + len(documents))
        yield high[chosen], np.asarray(documents["low"])[chosen], places[chosen]


def _sections(language: LanguageSections, folder: Path) -> Iterator[tuple[int, np.ndarray]]:
    start = 0
    for key, section in language.sections:
        yield start, map_documents(folder, key, section)
        start += section.documents
