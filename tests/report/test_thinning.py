"""Selection of the points of a long curve."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mmbert.report.thinning import POINTS_OF_A_BIN, thin

VALUES = st.lists(
    st.floats(-1e6, 1e6) | st.just(float("nan")) | st.just(float("inf")), min_size=1, max_size=200
)


@given(values=VALUES, bins=st.integers(1, 12), seed=st.integers(0, 10))
def test_of_each_bin_the_first_last_lowest_and_highest_are_chosen_and_nothing_else(
    values: list[float], bins: int, seed: int
) -> None:
    y = np.array(values)
    x = np.cumsum(np.random.default_rng(seed).integers(0, 50, len(y))).astype(float)
    chosen = thin(x, y, bins)
    assert sorted(set(chosen)) == chosen.tolist()
    finite = [at for at in range(len(y)) if np.isfinite(y[at])]
    assert set(chosen) <= set(finite)
    if len(finite) <= POINTS_OF_A_BIN * bins:
        assert chosen.tolist() == finite
        return
    assert len(chosen) <= POINTS_OF_A_BIN * bins
    width = (x[finite[-1]] - x[finite[0]]) / bins
    members: dict[int, list[int]] = {}
    for at in finite:
        number = min(int((x[at] - x[finite[0]]) // width), bins - 1) if width else 0
        members.setdefault(number, []).append(at)
    for group in members.values():
        kept = [at for at in group if at in set(chosen)]
        assert (kept[0], kept[-1]) == (group[0], group[-1])
        assert min(y[kept]) == min(y[group])
        assert max(y[kept]) == max(y[group])
        assert len(kept) <= POINTS_OF_A_BIN


def test_no_points_are_no_points() -> None:
    assert thin(np.array([]), np.array([]), 5).tolist() == []
    assert thin(np.array([1.0, 2.0]), np.array([np.nan, np.nan]), 5).tolist() == []
