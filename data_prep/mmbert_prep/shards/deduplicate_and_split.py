"""Assigns each document of a language to train, held-out, duplicate or over-cap."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

import numpy as np

from mmbert_prep.filters.cleaning import heldout_mask
from mmbert_prep.readers import RejectReason
from mmbert_prep.settings import SelectionSettings
from mmbert_prep.shards.intermediate import Section, map_documents

_HASHES_PER_PASS = 16_000_000  # bounds the memory of deduplication
_CAP_BINS = 1 << 16


class DocumentStatus(IntEnum):
    """Assignment of a document."""

    TRAIN = 0
    HELDOUT = 1
    DUPLICATE = 2
    OVER_CAP = 3
    DUPLICATE_OF_SOURCE = 4


_DROPPED = {
    DocumentStatus.DUPLICATE: RejectReason.DUPLICATE,
    DocumentStatus.DUPLICATE_OF_SOURCE: RejectReason.DUPLICATE_OF_SOURCE,
    DocumentStatus.OVER_CAP: RejectReason.OVER_TOKEN_CAP,
}


@dataclass(frozen=True)
class LanguageSections:
    """Sections of a language in intermediate shards: (unit key, section), in document order."""

    language: str
    sections: tuple[tuple[str, Section], ...]

    @property
    def documents(self) -> int:
        """Number of documents before selection."""
        return sum(section.documents for _, section in self.sections)


@dataclass(frozen=True)
class FoundDocuments:
    """Documents of a language that earlier sources have."""

    train: np.ndarray
    """bool[documents]: an earlier source trains on the text."""
    heldout: np.ndarray
    """bool[documents]: an earlier source holds the text out."""
    sources: dict[str, int]
    """Earlier source -> documents that it has; the first source of a text counts."""


@dataclass
class ShardPlan:
    """Shard of a language: the documents of one split with indices in [`first`, `last`)."""

    name: str
    first: int
    last: int


@dataclass
class Selection:
    """Status of each document of a language, and the resulting shards."""

    statuses: np.ndarray
    """uint8[documents]: `DocumentStatus` of each document."""
    dropped: dict[RejectReason, int]
    shards: list[ShardPlan] = field(default_factory=list)
    totals: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    """Split -> documents, tokens, bytes."""
    duplicates_of: dict[str, int] = field(default_factory=dict)
    """Earlier source -> documents dropped because it has them."""


def select(
    language: LanguageSections,
    folder: Path,
    settings: SelectionSettings,
    found: FoundDocuments | None = None,
) -> Selection:
    """Assign every document of a language, in passes over hashes and lengths on disk.

    `found`: documents that earlier sources have. They are dropped, or, with duplicates kept, belong
    to the split where they are there.
    """
    statuses = np.zeros(language.documents, dtype=np.uint8)
    if settings.deduplicate:
        _mark_duplicates(language, folder, statuses)
        if found is not None:
            statuses[found.train | found.heldout] = DocumentStatus.DUPLICATE_OF_SOURCE
    for start, documents in _sections(language, folder):
        view = statuses[start : start + len(documents)]
        hashes = np.stack([documents["high"], documents["low"]], axis=1)
        held = heldout_mask(hashes, settings.heldout_share)
        view[held & (view == DocumentStatus.TRAIN)] = DocumentStatus.HELDOUT
    if found is not None and not settings.deduplicate:
        statuses[found.train] = DocumentStatus.TRAIN
        statuses[found.heldout] = DocumentStatus.HELDOUT
    # If no training document remains, train on the held-out ones.
    if not np.any(statuses == DocumentStatus.TRAIN):
        statuses[statuses == DocumentStatus.HELDOUT] = DocumentStatus.TRAIN
        if found is not None and not settings.deduplicate:
            statuses[found.heldout] = DocumentStatus.HELDOUT
    if settings.maximum_tokens_per_language is not None:
        _cap(language, folder, statuses, settings.maximum_tokens_per_language)
    dropped = {
        reason: int(np.count_nonzero(statuses == status)) for status, reason in _DROPPED.items()
    }
    selection = Selection(statuses, {reason: n for reason, n in dropped.items() if n})
    if found is not None and settings.deduplicate:
        selection.duplicates_of = found.sources
    _plan_shards(language, folder, settings.shard_tokens, selection)
    return selection


def _sections(language: LanguageSections, folder: Path) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the index of the first document and the records of each section."""
    start = 0
    for key, section in language.sections:
        documents = map_documents(folder, key, section)
        yield start, documents
        start += section.documents


def _mark_duplicates(language: LanguageSections, folder: Path, statuses: np.ndarray) -> None:
    """Mark documents whose hash occurred before. Each pass covers one residue class of hashes."""
    passes = -(-language.documents // _HASHES_PER_PASS)
    for number in range(passes):
        highs, lows, places = [], [], []
        for start, documents in _sections(language, folder):
            high = np.asarray(documents["high"])
            chosen = slice(None) if passes == 1 else high % np.uint64(passes) == number
            highs.append(high[chosen])
            lows.append(np.asarray(documents["low"])[chosen])
            places.append(np.arange(start, start + len(documents))[chosen])
        if not highs:
            continue
        high, low, place = np.concatenate(highs), np.concatenate(lows), np.concatenate(places)
        order = np.lexsort((low, high))  # stable: the first of equal texts is kept
        high, low = high[order], low[order]
        again = (high[1:] == high[:-1]) & (low[1:] == low[:-1])
        statuses[place[order[1:][again]]] = DocumentStatus.DUPLICATE


def _cap(language: LanguageSections, folder: Path, statuses: np.ndarray, maximum: int) -> None:
    """Keep the training documents with the smallest hashes, up to `maximum` tokens.

    The choice is uniform, independent of file order, and a larger cap keeps a superset.
    """
    bins = np.zeros(_CAP_BINS, dtype=np.int64)
    shift = np.uint64(48)
    for start, documents in _sections(language, folder):
        train = statuses[start : start + len(documents)] == DocumentStatus.TRAIN
        index = (np.asarray(documents["low"])[train] >> shift).astype(np.int64)
        tokens = np.asarray(documents["tokens"])[train].astype(np.int64)
        np.add.at(bins, index, tokens)
    if int(bins.sum()) <= maximum:
        return
    ends = np.cumsum(bins)
    border = int(np.searchsorted(ends, maximum, side="right"))  # the partially kept bin
    remaining = maximum - (int(ends[border - 1]) if border else 0)
    in_border: list[np.ndarray] = []
    for start, documents in _sections(language, folder):
        view = statuses[start : start + len(documents)]
        index = (np.asarray(documents["low"]) >> shift).astype(np.int64)
        view[(view == DocumentStatus.TRAIN) & (index > border)] = DocumentStatus.OVER_CAP
        border_documents = np.flatnonzero((view == DocumentStatus.TRAIN) & (index == border))
        facts = np.empty(
            len(border_documents), dtype=[("low", "<u8"), ("place", "<i8"), ("tokens", "<i8")]
        )
        facts["low"] = documents["low"][border_documents]
        facts["place"] = border_documents + start
        facts["tokens"] = documents["tokens"][border_documents]
        in_border.append(facts)
    facts = np.sort(np.concatenate(in_border), order=["low", "place"])
    statuses[facts["place"][np.cumsum(facts["tokens"]) > remaining]] = DocumentStatus.OVER_CAP
    # The first document alone exceeds the cap: keep it.
    if not np.any(statuses == DocumentStatus.TRAIN):
        statuses[facts["place"][:1]] = DocumentStatus.TRAIN


def _plan_shards(
    language: LanguageSections, folder: Path, shard_tokens: int, selection: Selection
) -> None:
    for status, split in ((DocumentStatus.TRAIN, "train"), (DocumentStatus.HELDOUT, "heldout")):
        totals = np.zeros(3, dtype=np.int64)
        bounds = [0]
        filled = 0
        for start, documents in _sections(language, folder):
            kept = selection.statuses[start : start + len(documents)] == status
            tokens = np.where(kept, np.asarray(documents["tokens"]).astype(np.int64), 0)
            size = np.asarray(documents["bytes"]).astype(np.int64)[kept]
            totals += np.array([np.count_nonzero(kept), tokens.sum(), size.sum()], dtype=np.int64)
            ends = np.cumsum(tokens) + filled
            # A shard ends with the document that reaches its size.
            while len(ends) and ends[-1] >= shard_tokens:
                last = int(np.searchsorted(ends, shard_tokens)) + 1
                bounds.append(start + last)
                ends = ends[last:] - ends[last - 1]
                start += last
            filled = int(ends[-1]) if len(ends) else 0
        selection.totals[split] = (int(totals[0]), int(totals[1]), int(totals[2]))
        if filled:
            bounds.append(language.documents)
        selection.shards += [
            ShardPlan(f"{split}-{number:05d}", first, last)
            for number, (first, last) in enumerate(itertools.pairwise(bounds))
        ]
