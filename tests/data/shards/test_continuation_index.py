"""Splitting documents: nothing lost or repeated, no tiny last pieces, additive indexes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbert.data.shards.continuation_index import (
    continuation_index,
    count_parts,
    part_bounds,
    read_continuation_index,
    write_continuation_index,
    write_continuation_indexes,
)
from mmbert.errors import UserError


@given(st.integers(0, 5000), st.integers(3, 600))
@settings(deadline=None)
def test_parts_cover_the_document_once_and_none_is_tiny(length: int, context: int) -> None:
    capacity = context - 2
    parts = int(count_parts(length, context))
    starts, ends = part_bounds(length, context, np.arange(parts))
    assert starts[0] == 0
    assert ends[-1] == length
    np.testing.assert_array_equal(starts[1:], ends[:-1])
    sizes = ends - starts
    assert sizes.max() <= capacity
    assert parts == max(1, -(-length // capacity))
    if parts > 1:
        assert 2 * sizes.min() >= capacity
        np.testing.assert_array_equal(sizes[:-2], capacity)


def test_the_last_two_parts_share_evenly() -> None:
    # capacity 10: 25 = 10 + 10 + 5 stays, 24 = 10 + 7 + 7
    starts, ends = part_bounds([25, 25, 25, 24, 24, 24], 12, [0, 1, 2, 0, 1, 2])
    np.testing.assert_array_equal(ends - starts, [10, 10, 5, 10, 7, 7])


@given(st.lists(st.integers(0, 100), max_size=40), st.integers(3, 30), st.integers(0, 40))
@settings(deadline=None)
def test_indexes_of_shards_concatenate(lengths: list[int], context: int, cut: int) -> None:
    whole = continuation_index(lengths, context)
    cut = min(cut, len(lengths))
    halves = np.concatenate(
        [
            continuation_index(lengths[:cut], context),
            continuation_index(lengths[cut:], context, first_document=cut),
        ]
    )
    np.testing.assert_array_equal(whole, halves)
    expected = [
        (document, part)
        for document, length in enumerate(lengths)
        for part in range(1, int(count_parts(length, context)))
    ]
    assert [tuple(entry) for entry in whole.tolist()] == expected


def test_damaged_index_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pieces-12.npy"
    index = continuation_index([25, 3, 40], 12)
    write_continuation_index(path, index)
    np.testing.assert_array_equal(read_continuation_index(path, len(index), 3).entries, index)
    with pytest.raises(UserError, match=r"pieces-12\.npy lists"):
        read_continuation_index(path, len(index) + 1, 3)
    with pytest.raises(UserError, match="outside"):
        read_continuation_index(path, len(index), 2)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"pieces-12\.npy"):
        read_continuation_index(path, len(index), 3)
    with pytest.raises(UserError, match="missing"):
        read_continuation_index(tmp_path / "pieces-13.npy", 1, 1)


@given(st.lists(st.lists(st.integers(0, 100), max_size=10), max_size=5))
@settings(deadline=None)
def test_indexes_written_one_by_one_are_the_file_of_all(
    tmp_path_factory: pytest.TempPathFactory, shards: list[list[int]]
) -> None:
    folder, first, indexes = tmp_path_factory.mktemp("indexes"), 0, []
    for lengths in shards:
        indexes.append(continuation_index(lengths, 12, first))
        first += len(lengths)
    whole = continuation_index([length for lengths in shards for length in lengths], 12)
    np.save(folder / "whole.npy", whole)
    write_continuation_indexes(folder / "parts.npy", len(whole), iter(indexes))
    assert (folder / "parts.npy").read_bytes() == (folder / "whole.npy").read_bytes()
    with pytest.raises(ValueError, match="entries are missing"):
        write_continuation_indexes(folder / "wrong.npy", len(whole) + 1, indexes)
    assert not (folder / "wrong.npy").exists()
