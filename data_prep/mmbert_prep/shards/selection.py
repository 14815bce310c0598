"""What becomes of each document of a language: train, held out, duplicate, over the cap."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

import numpy as np

from mmbert_prep.filters.cleaning import heldout_mask
from mmbert_prep.settings import PrepSettings
from mmbert_prep.shards.intermediate import Section, map_documents

_HASHES_PER_PASS = 16_000_000  # bounds memory of finding duplicates; more documents take passes
_CAP_BINS = 1 << 16


class DocumentStatus(IntEnum):
    """What becomes of a document."""

    TRAIN = 0
    HELDOUT = 1
    DUPLICATE = 2
    OVER_CAP = 3


@dataclass(frozen=True)
class LanguageSections:
    """Where a language's documents lie: (unit key, section), in the order of documents."""

    language: str
    sections: tuple[tuple[str, Section], ...]

    @property
    def documents(self) -> int:
        """Number of documents, before any is dropped."""
        return sum(section.documents for _, section in self.sections)


@dataclass
class ShardPlan:
    """One shard: kept documents among first … last (exclusive) of the language's documents."""

    name: str
    first: int
    last: int


@dataclass
class Selection:
    """The fate of each document (uint8) and the shards that follow from it."""

    statuses: np.ndarray
    dropped: dict[str, int]
    shards: list[ShardPlan] = field(default_factory=list)
    totals: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    """Split -> documents, tokens, bytes."""


def select(language: LanguageSections, folder: Path, settings: PrepSettings) -> Selection:
    """Decide every document's fate, in passes over hashes and lengths on disk."""
    statuses = np.zeros(language.documents, dtype=np.uint8)
    if settings.deduplicate:
        _mark_duplicates(language, folder, statuses)
    duplicates = int(np.count_nonzero(statuses))
    for start, documents in _sections(language, folder):
        view = statuses[start : start + len(documents)]
        hashes = np.stack([documents["high"], documents["low"]], axis=1)
        held = heldout_mask(hashes, settings.heldout_share)
        view[held & (view == DocumentStatus.TRAIN)] = DocumentStatus.HELDOUT
    # Held-out documents are of no use without anything to train on.
    if not np.any(statuses == DocumentStatus.TRAIN):
        statuses[statuses == DocumentStatus.HELDOUT] = DocumentStatus.TRAIN
    if settings.maximum_tokens_per_language is not None:
        _cap(language, folder, statuses, settings.maximum_tokens_per_language)
    over = int(np.count_nonzero(statuses == DocumentStatus.OVER_CAP))
    dropped = {"duplicate": duplicates, "over_token_cap": over}
    selection = Selection(statuses, {reason: n for reason, n in dropped.items() if n})
    _plan_shards(language, folder, settings.shard_tokens, selection)
    return selection


def _sections(language: LanguageSections, folder: Path) -> Iterator[tuple[int, np.ndarray]]:
    """(index of the first document, facts of a section's documents), section by section."""
    start = 0
    for key, section in language.sections:
        documents = map_documents(folder, key, section)
        yield start, documents
        start += section.documents


def _mark_duplicates(language: LanguageSections, folder: Path, statuses: np.ndarray) -> None:
    """Mark every document whose text occurred before; each pass looks at one range of hashes."""
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
        order = np.lexsort((low, high))  # stable: equal texts stay in the order of documents
        high, low = high[order], low[order]
        again = (high[1:] == high[:-1]) & (low[1:] == low[:-1])
        statuses[place[order[1:][again]]] = DocumentStatus.DUPLICATE


def _cap(language: LanguageSections, folder: Path, statuses: np.ndarray, most: int) -> None:
    """Keep the training documents of the smallest hashes, as many tokens as fit into `most`.

    So the choice is a uniform one, does not favour the first files, and grows with the cap.
    """
    bins = np.zeros(_CAP_BINS, dtype=np.int64)
    shift = np.uint64(48)
    for start, documents in _sections(language, folder):
        train = statuses[start : start + len(documents)] == DocumentStatus.TRAIN
        index = (np.asarray(documents["low"])[train] >> shift).astype(np.int64)
        tokens = np.asarray(documents["tokens"])[train].astype(np.int64)
        np.add.at(bins, index, tokens)
    if int(bins.sum()) <= most:
        return
    ends = np.cumsum(bins)
    border = int(np.searchsorted(ends, most, side="right"))  # the bin that is partly kept
    room = most - (int(ends[border - 1]) if border else 0)
    low_border: list[np.ndarray] = []
    for start, documents in _sections(language, folder):
        view = statuses[start : start + len(documents)]
        index = (np.asarray(documents["low"]) >> shift).astype(np.int64)
        view[(view == DocumentStatus.TRAIN) & (index > border)] = DocumentStatus.OVER_CAP
        inside = np.flatnonzero((view == DocumentStatus.TRAIN) & (index == border))
        facts = np.empty(len(inside), dtype=[("low", "<u8"), ("place", "<i8"), ("tokens", "<i8")])
        facts["low"] = documents["low"][inside]
        facts["place"] = inside + start
        facts["tokens"] = documents["tokens"][inside]
        low_border.append(facts)
    facts = np.sort(np.concatenate(low_border), order=["low", "place"])
    statuses[facts["place"][np.cumsum(facts["tokens"]) > room]] = DocumentStatus.OVER_CAP
    # Even the first document is longer than the cap.
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
