"""Account of a file range: which of its input bytes were read, and which were lost, and why.

A damaged record loses its bytes as they lie on disk: the share of its size in the sizes of all
records of the range. So it does not matter whether a file is compressed, and a format only has to
give the sizes of the records that it rejects (without one, a record has the range's mean size).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from pydantic import BaseModel, Field

from mmbert_prep.readers.documents import Document, FileRange
from mmbert_prep.readers.rejection import Rejected, RejectReason

_MOST_NAMES = 20  # of no language, per file
# More text than this per byte on disk is not expected; bounds what a part of a range has lost.
_LARGEST_EXPANSION = 20


class FileLoss(BaseModel):
    """What a file lost, or a range of it."""

    path: str
    unread_bytes: int = 0
    """Input bytes of damaged documents, and those that could not be read."""
    unnamed_bytes: int = 0
    """Input bytes of documents without a language."""
    languages: dict[str, int] = Field(default_factory=dict)
    """Language -> unread bytes; "" if the language is unknown."""
    reasons: dict[str, int] = Field(default_factory=dict)
    """Reason -> documents."""
    names: dict[str, int] = Field(default_factory=dict)
    """What language columns have that is no language -> documents, of the first such names."""
    problem: str | None = None
    """The error that ended the reading, without the path."""
    columns: tuple[str, ...] = ()
    """Columns or keys of the first record without the one of the text."""

    @property
    def lost_bytes(self) -> int:
        """Bytes that cannot become documents of a language."""
        return self.unread_bytes + self.unnamed_bytes

    def add(self, other: FileLoss) -> None:
        """Add the loss of another range of the file."""
        self.unread_bytes += other.unread_bytes
        self.unnamed_bytes += other.unnamed_bytes
        for language, size in other.languages.items():
            self.languages[language] = self.languages.get(language, 0) + size
        for reason, documents in other.reasons.items():
            self.reasons[reason] = self.reasons.get(reason, 0) + documents
        for name, documents in other.names.items():
            _count_name(self.names, name, documents)
        self.problem = self.problem or other.problem
        self.columns = self.columns or other.columns


@dataclass(slots=True)
class _Sizes:
    """Sizes of records: their sum, and the number of those whose size is unknown."""

    documents: int = 0
    """Records of known size."""
    size: int = 0
    unknown: int = 0

    def add(self, document: Document) -> None:
        size = document.size
        if size is None:
            if document.data is not None:
                size = len(document.data)
            elif document.tokens is not None:
                size = document.tokens.nbytes
            else:
                self.unknown += 1
                return
        self.documents += 1
        self.size += size


@dataclass(frozen=True)
class RangeBytes:
    """Result of an account. Over the languages, `input_bytes` adds up to those of the range."""

    input_bytes: dict[str, int]
    """Language -> input bytes, read or not."""
    unread_bytes: dict[str, int]
    loss: FileLoss | None
    """None if nothing was lost."""


@dataclass
class RangeAccount:
    """Account of the records of one range, in a loop over `read_range`."""

    file_range: FileRange
    lost_size: int = 0
    """Sizes of lost records so far."""
    _kept: dict[str, _Sizes] = field(default_factory=dict)
    _damaged: dict[str, _Sizes] = field(default_factory=dict)
    _unnamed: _Sizes = field(default_factory=_Sizes)
    _reasons: dict[str, int] = field(default_factory=dict)
    _names: dict[str, int] = field(default_factory=dict)
    _tail: int = 0
    _problem: str | None = None
    _columns: tuple[str, ...] = ()

    def keep(self, document: Document) -> None:
        """Count a record that was read, even if it is not wanted."""
        language = document.language or ""
        sizes = self._kept.get(language)
        if sizes is None:
            sizes = self._kept[language] = _Sizes()
        sizes.add(document)

    def reject(self, document: Document, rejected: Rejected) -> None:
        """Count a rejected record: its bytes are lost if it is damaged or has no language."""
        reason = rejected.reason
        unnamed = reason is RejectReason.MISSING_LANGUAGE
        if not reason.damage and not unnamed:
            self.keep(document)
            return
        self._reasons[reason.value] = self._reasons.get(reason.value, 0) + 1
        self._columns = self._columns or rejected.columns
        if reason is RejectReason.DAMAGED_FILE:
            all_ = self.file_range.accounted_bytes
            self._tail += all_ if document.size is None else min(document.size, all_)
            self._problem = (rejected.detail or "").removeprefix(f"{self.file_range.path}: ")
            return
        sizes = self._unnamed
        if unnamed and document.written_language is not None:
            _count_name(self._names, document.written_language, 1)
        if not unnamed:
            sizes = self._damaged.setdefault(document.language or "", _Sizes())
        before = sizes.size
        sizes.add(document)
        self.lost_size += sizes.size - before

    def finish(self, *, complete: bool = True) -> RangeBytes:
        """Divide the input bytes of the range.

        With `complete` false, reading was broken off: the loss is a lower bound.
        """
        total = self.file_range.accounted_bytes
        tail = min(self._tail, total)
        groups = [*self._kept.items(), *self._damaged.items(), ("", self._unnamed)]
        shares = _divide(total - tail, _weights([sizes for _, sizes in groups]))
        if not complete:
            shares = [
                min(share, sizes.size // _LARGEST_EXPANSION)
                for share, (_, sizes) in zip(shares, groups, strict=True)
            ]
        input_bytes: dict[str, int] = {}
        unread: dict[str, int] = {}
        for number, ((language, _), share) in enumerate(zip(groups, shares, strict=True)):
            _increase(input_bytes, language, share)
            if len(self._kept) <= number < len(groups) - 1:
                _increase(unread, language, share)
        # A range without records, and what was broken off, counts as read.
        own = self.file_range.language or next(iter(self._kept), "")
        _increase(input_bytes, own, total - tail - sum(shares))
        _increase(input_bytes, self.file_range.language or "", tail)
        _increase(unread, self.file_range.language or "", tail)
        loss = FileLoss(
            path=self.file_range.path,
            unread_bytes=sum(unread.values()),
            unnamed_bytes=shares[-1],
            languages=unread,
            reasons=self._reasons,
            names=self._names,
            problem=self._problem,
            columns=self._columns,
        )
        return RangeBytes(input_bytes, unread, loss if self._reasons else None)


def _count_name(names: dict[str, int], name: str, documents: int) -> None:
    if name in names or len(names) < _MOST_NAMES:
        names[name] = names.get(name, 0) + documents


def _weights(groups: list[_Sizes]) -> list[int]:
    """Return integers in the ratio of the sizes; an unknown size is the mean of the others."""
    documents = sum(sizes.documents for sizes in groups)
    size = sum(sizes.size for sizes in groups)
    if not size:
        return [sizes.documents + sizes.unknown for sizes in groups]
    return [sizes.size * documents + sizes.unknown * size for sizes in groups]


def _divide(total: int, weights: list[int]) -> list[int]:
    """Divide `total` in the ratio of `weights`, into integers that add up to it."""
    bounds = [0, *itertools.accumulate(weights)]
    places = [total * bound // max(1, bounds[-1]) for bound in bounds]
    return [stop - start for start, stop in itertools.pairwise(places)]


def _increase(sizes: dict[str, int], language: str, size: int) -> None:
    if size:
        sizes[language] = sizes.get(language, 0) + size
