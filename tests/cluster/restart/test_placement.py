"""The grid that fits an allocation, for any recipe and any number of nodes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbert.cluster.restart.placement import Placement, place_largest
from mmbert.errors import LauncherError
from mmbert.recipe.sections import BatchSettings, ParallelSettings


def place(nodes: int, per_node: int, quantum: int, tensor: int = 1) -> Placement:
    hosts = [f"n{number + 1}" for number in range(nodes)]
    batch = BatchSettings(row_tokens=64, rows=quantum, quantum=quantum)
    return place_largest(hosts, per_node, batch, ParallelSettings(tensor=tensor))


@given(st.integers(1, 12), st.integers(1, 8), st.integers(1, 64), st.integers(1, 4))
def test_the_largest_number_of_ranks_that_fits_is_taken(
    nodes: int, per_node: int, quantum: int, tensor: int
) -> None:
    available = nodes * per_node
    fitting = [
        tasks for tasks in range(tensor, available + 1, tensor) if quantum % (tasks // tensor) == 0
    ]
    if not fitting:
        with pytest.raises(LauncherError, match=f"less than parallel.tensor \\({tensor}\\)"):
            place(nodes, per_node, quantum, tensor)
        return
    found = place(nodes, per_node, quantum, tensor)
    assert found.tasks == max(fitting)
    assert (found.idle == "") == (found.tasks == available)
    assert (len(found.hosts) - 1) * per_node < found.tasks <= len(found.hosts) * per_node
    assert found.host_of(found.tasks - 1) == found.hosts[-1]


def test_what_stays_idle_is_named() -> None:
    assert place(3, 1, 4).idle == "all of n3"
    assert place(3, 8, 20).idle == "4 of 8 tasks on n3"
    assert place(12, 1, 2).idle.endswith("all of n10 and 2 more")


def test_less_than_one_tensor_group_is_refused_with_the_sizes_that_fit() -> None:
    with pytest.raises(LauncherError) as error:
        place(1, 1, 4, 2)
    assert error.value.remedy.endswith("2, 4, 8")
