"""Open shards of a corpus, read at many places of many shards in one call.

A row of short documents touches hundreds of shards, so that a call per document would take most of
the time. All open files are memory maps of one process, hence parts of one address space: a read of
any places of any shards is one gather from an array that spans it. Every address is computed from
the start of an open file and checked against its size.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np

from mmbert.data.shards.component import Component, SplitName
from mmbert.data.shards.indexed_dataset import IndexedDataset
from mmbert.errors import ShardsError

CHECK_SECONDS = 0.2
"""Interval between checks that an open file was not truncated.

A system call for each read would take longer than the read. Files are checked before they are read
and again after; one truncated within the interval may end the process with SIGBUS before that.
"""

_SPLITS: tuple[SplitName, ...] = ("train", "heldout")
_FIRST_ADDRESS = 1 << 16  # nothing is mapped below; a view cannot start at address 0
_END_ADDRESS = 1 << 47  # of a process on x86-64 and 64-bit Arm
_LENGTH_BYTES = np.arange(4)
_OFFSET_BYTES = np.arange(16)  # a sequence's offset and the next one's


@cache
def _memory() -> np.ndarray:
    """Return this process' address space from _FIRST_ADDRESS on, uint8."""
    kind = ctypes.c_uint8 * (_END_ADDRESS - _FIRST_ADDRESS)
    return np.ctypeslib.as_array(kind.from_address(_FIRST_ADDRESS))


def _address(array: np.ndarray) -> int:
    """Return the index of an array's first byte in `_memory()`."""
    start: int = array.__array_interface__["data"][0]
    return start - _FIRST_ADDRESS


class ShardPool:
    """Open shards, numbered over all components of both splits; opened on first use.

    A shard takes two file descriptors and two memory maps, so that thousands of languages would
    exceed the usual limits: the least recently used are closed. Opening verifies a pair's sizes
    against its manifest, so that a replaced or truncated file is reported, not misread.

    Args:
        capacity: maximum number of open shards.
    """

    def __init__(self, components: Sequence[Component], capacity: int) -> None:
        self._components = components
        self._capacity = capacity
        counts = [len(each.split(split).shards) for split in _SPLITS for each in components]
        bounds = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
        count = len(components)
        self._first = {split: bounds[i * count :][: count + 1] for i, split in enumerate(_SPLITS)}
        documents = [
            shard.documents
            for split in _SPLITS
            for component in components
            for shard in component.split(split).shards
        ]
        self._document_starts = np.concatenate(([0], np.cumsum(documents, dtype=np.int64)))
        shards = int(bounds[-1])
        self._open: dict[int, IndexedDataset] = {}
        self._is_open = np.zeros(shards, dtype=bool)
        self._used = np.zeros(shards, dtype=np.int64)  # number of the last call that used it
        self._calls = 0
        # Times of the last read and the last check of .idx and .bin.
        self._read, self._checked = np.zeros((2, 2, shards))
        self._all_checked = [0.0, 0.0]
        # Addresses of an open shard's arrays.
        self._lengths, self._offsets, self._tokens, self._bytes = np.zeros(
            (4, shards), dtype=np.int64
        )
        self._item = np.ones(shards, dtype=np.int64)

    def get(self, component: Component, split: SplitName, number: int) -> IndexedDataset:
        """Return the pair of shard `number` of a component's split."""
        shard = int(self._first[split][component.index]) + number
        self._ensure_open(np.array([shard]))
        return self._open[shard]

    def documents(
        self, components: np.ndarray, split: SplitName, numbers: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Locate documents given by component and number within the split, int64 [n].

        Numbers must be below the split's documents. Reads the indexes only; the results are not
        verified.

        Returns:
            Shard within the split, length in tokens, offset in bytes, and offset of the end in
            bytes as the next document's offset has it; int64 [n].
        """
        starts = self._document_starts
        first = self._first[split][components]
        shard = np.searchsorted(starts, starts[first] + numbers, side="right") - 1
        place = starts[first] + numbers - starts[shard]
        length, offset, following = np.empty((3, len(shard)), dtype=np.int64)
        for group in self._groups(shard, kind=0):
            inside, places = shard[group], place[group]
            length[group] = _gather(self._lengths[inside] + 4 * places, _LENGTH_BYTES, "<i4")[:, 0]
            pair = _gather(self._offsets[inside] + 8 * places, _OFFSET_BYTES, "<i8")
            offset[group] = pair[:, 0]
            # The boundaries follow the last offset and begin with 0.
            is_last = starts[inside] + places + 1 == starts[inside + 1]
            following[group] = np.where(
                is_last & (pair[:, 1] == 0), self._bytes[inside], pair[:, 1]
            )
        return shard - first, length, offset, following

    def token_bytes(
        self, components: np.ndarray, split: SplitName, shards: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the bytes per token and the size in bytes of shards of a split, int64 [n]."""
        numbers = self._first[split][components] + shards
        for _ in self._groups(numbers, kind=0):
            pass
        return self._item[numbers], self._bytes[numbers]

    def copy_tokens(
        self,
        components: np.ndarray,
        split: SplitName,
        shards: np.ndarray,
        offsets: np.ndarray,
        sizes: np.ndarray,
        target: np.ndarray,
        places: np.ndarray,
    ) -> None:
        """Copy `sizes` tokens from `offsets` of `shards` to `places` of the flat array `target`.

        Raises IndexError if a range is outside its shard.
        """
        numbers = self._first[split][components] + shards
        for group in self._groups(numbers, kind=1):
            inside, size, offset = numbers[group], sizes[group], offsets[group]
            item = self._item[inside]
            if np.any((offset < 0) | (size < 0) | ((offset + size) * item > self._bytes[inside])):
                raise IndexError("tokens outside their shard")
            for width in np.unique(item).tolist():  # one, unless pairs of other programs are mixed
                of_width = np.flatnonzero(item == width)
                dtype = self._open[int(inside[of_width[0]])].dtype
                memory = _memory().view(dtype)
                within = _ranges(size[of_width])
                starts = self._tokens[inside[of_width]] // width + offset[of_width]
                counts = size[of_width]
                target[np.repeat(places[group][of_width], counts) + within] = memory.take(
                    np.repeat(starts, counts) + within
                )

    def _groups(self, shards: np.ndarray, kind: int) -> Iterator[np.ndarray | slice]:
        """Yield indices of parts of `shards` that fit the capacity, each opened and checked.

        `kind`: the file to be read, 0 for .idx and 1 for .bin.
        """
        now = time.monotonic()
        checked, read = self._checked[kind], self._read[kind]
        if now - self._all_checked[kind] > CHECK_SECONDS:
            # Also what was read since its last check: a read after a truncation may give zeros.
            self._check(np.flatnonzero(self._is_open & (read >= checked)), kind, now)
            self._all_checked[kind] = now
        if self._is_open[shards].all() and (checked[shards] >= now - CHECK_SECONDS).all():
            self._calls += 1
            self._used[shards] = self._calls
            read[shards] = now
            yield slice(None)
            return
        needed = np.unique(shards)
        for start in range(0, len(needed), self._capacity):
            group = needed[start : start + self._capacity]
            self._ensure_open(group)
            now = time.monotonic()
            self._check(group[checked[group] < now - CHECK_SECONDS], kind, now)
            read[group] = now
            if len(group) == len(needed):
                yield slice(None)
            else:
                yield np.flatnonzero(np.isin(shards, group))

    def _ensure_open(self, shards: np.ndarray) -> None:
        """Open shards (distinct, at most the capacity), closing the least recently used ones."""
        self._calls += 1
        self._used[shards] = self._calls
        closed = shards[~self._is_open[shards]]
        surplus = len(self._open) + len(closed) - self._capacity
        if surplus > 0:
            candidates = np.flatnonzero(self._is_open & (self._used < self._calls))
            oldest = candidates[np.argsort(self._used[candidates], kind="stable")[:surplus]]
            for shard in oldest.tolist():
                del self._open[shard]
            self._is_open[oldest] = False
        for shard in closed.tolist():
            dataset = self._open_shard(shard)
            self._open[shard] = dataset
            self._is_open[shard] = True
            self._checked[:, shard] = time.monotonic()
            self._lengths[shard] = _address(dataset.lengths)
            self._offsets[shard] = _address(dataset.offsets)
            self._tokens[shard] = _address(dataset.tokens)
            self._bytes[shard], self._item[shard] = dataset.byte_count, dataset.dtype.itemsize

    def _open_shard(self, shard: int) -> IndexedDataset:
        split = _SPLITS[int(shard >= self._first["heldout"][0])]
        first = self._first[split]
        component = self._components[int(np.searchsorted(first, shard, side="right")) - 1]
        entry = component.split(split).shards[shard - int(first[component.index])]
        dataset = IndexedDataset(component.folder / entry.name)
        if (
            len(dataset) != entry.documents
            or dataset.sequence_count != entry.documents
            or dataset.token_count != entry.tokens
            or dataset.dtype != np.dtype(component.manifest.dtype)
        ):
            raise ShardsError(
                f"{component.folder / entry.name}.bin/.idx does not match the manifest "
                f"({entry.documents} documents, {entry.tokens} tokens of "
                f"{component.manifest.dtype})",
                remedy="restore the files from a copy, or remove summary.json from the source's "
                "folder and run the same preprocessing command again, which remakes the source",
            )
        return dataset

    def _check(self, shards: np.ndarray, kind: int, now: float) -> None:
        for shard in shards.tolist():
            dataset = self._open[shard]
            if kind:
                dataset.check_tokens_not_truncated()
            else:
                dataset.check_index_not_truncated()
        self._checked[kind][shards] = now


def _gather(addresses: np.ndarray, pattern: np.ndarray, dtype: str) -> np.ndarray:
    """Return the bytes at each address plus `pattern`, viewed as `dtype`, [n, k]."""
    return _memory().take(addresses[:, None] + pattern).view(dtype)


def _ranges(sizes: np.ndarray) -> np.ndarray:
    """Return 0 … size - 1 of each size, concatenated."""
    ends = np.cumsum(sizes)
    return np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - sizes, sizes)
