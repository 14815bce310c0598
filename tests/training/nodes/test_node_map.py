"""Nodes of ranks, their groups, and groups that are made after them."""

from typing import Any

import torch

from mmbert.parallel.collectives import all_reduce
from mmbert.parallel.process_grid import build_grid
from tests.support.fake_nodes import nodes_of
from tests.support.ranks import run_ranks


def groups(rank: int, world_size: int, hosts: list[str]) -> dict[str, Any]:
    nodes, _ = nodes_of(hosts, rank, world_size)
    found = {
        "names": nodes.names,
        "own": nodes.own.gather(rank),
        "across": nodes.across.gather(rank),
        "from the first": nodes.own.broadcast(rank),
        "first": nodes.is_first_rank,
    }
    # Other groups of ranks with different groups before would wait forever.
    grid = build_grid(tensor_parallel=1)
    return found | {"sum": all_reduce(torch.tensor(rank), grid.data).item()}


def test_groups_of_nodes_of_different_sizes() -> None:
    found = run_ranks(groups, 4, ["a", "b", "b", "c"])
    assert {rank: entry["own"] for rank, entry in found.items()} == {
        0: [0], 1: [1, 2], 2: [1, 2], 3: [3],
    }  # fmt: skip
    assert {rank: entry["across"] for rank, entry in found.items()} == {
        0: [0, 1, 3], 1: [0, 1, 3], 2: [2], 3: [0, 1, 3],
    }  # fmt: skip
    assert [found[rank]["from the first"] for rank in range(4)] == [0, 1, 1, 3]
    assert [found[rank]["first"] for rank in range(4)] == [True, True, False, True]
    assert all(entry["names"] == ("a", "b", "c") for entry in found.values())
    assert all(entry["sum"] == 6 for entry in found.values())


def test_one_node_and_a_node_for_each_rank() -> None:
    for hosts, own, across in (
        (["a"] * 2, [[0, 1]] * 2, [[0], [1]]),
        (["a", "b"], [[0], [1]], [[0, 1]] * 2),
    ):
        found = run_ranks(groups, 2, hosts)
        assert [found[rank]["own"] for rank in range(2)] == own
        if len(set(hosts)) > 1:
            assert [found[rank]["across"] for rank in range(2)] == across
