"""Keyed permutations are bijections for every size, different for every key, and patternless."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbert.data.sampling.permutation import key_of, permute, unit_of

KNOWN_TEN = [0, 7, 2, 9, 6, 4, 8, 3, 5, 1]
KNOWN_BIG = [2285371833, 3476479985, 3382233648]
KNOWN_UNIT = 0.4579347359827072
KEYS = st.integers(0, 2**64 - 1)


@given(st.integers(1, 3000), KEYS)
@settings(deadline=None)
def test_is_a_bijection(size: int, key: int) -> None:
    image = permute(np.arange(size), size, key)
    np.testing.assert_array_equal(np.sort(image), np.arange(size))


@given(st.lists(st.tuples(st.integers(1, 10**12), KEYS), min_size=1, max_size=12), st.data())
@settings(deadline=None, max_examples=40)
def test_elements_do_not_depend_on_their_neighbors(
    pairs: list[tuple[int, int]], data: st.DataObject
) -> None:
    sizes = np.array([size for size, _ in pairs])
    keys = np.array([key for _, key in pairs], dtype=np.uint64)
    index = np.array([data.draw(st.integers(0, size - 1)) for size, _ in pairs])
    together = permute(index, sizes, keys)
    alone = [int(permute([i], s, k)[0]) for i, s, k in zip(index, sizes, keys, strict=True)]
    assert together.tolist() == alone
    assert (together >= 0).all()
    assert (together < sizes).all()


def test_known_values() -> None:
    # The order of data must never change between versions or machines.
    assert permute(np.arange(10), 10, 1).tolist() == KNOWN_TEN
    assert permute([0, 1, 4_000_000_000 - 1], 4_000_000_000, key_of("a", 1)).tolist() == KNOWN_BIG
    assert unit_of("a", 1) == KNOWN_UNIT


def test_neighbors_scatter() -> None:
    size = 10_000
    image = permute(np.arange(size), size, 7)
    distances = np.abs(np.diff(image))
    # two independent uniform places are a third of the range apart on average
    assert 0.32 < distances.mean() / size < 0.35
    # every tenth of the order visits every tenth of the documents about equally: chi-square, 81 df
    table = np.histogram2d(np.arange(size), image, bins=10)[0]
    assert ((table - 100) ** 2 / 100).sum() < 140


def test_every_position_is_uniform_over_keys() -> None:
    size, keys = 7, np.arange(7000, dtype=np.uint64)
    counts = np.stack(
        [np.bincount(permute(np.full(7000, i), size, keys), minlength=size) for i in range(size)]
    )
    assert ((counts - 1000) ** 2 / 1000).sum() < 75  # 36 degrees of freedom


def test_outside_is_refused() -> None:
    with pytest.raises(ValueError, match="not below the size"):
        permute([5], 5, 1)
