"""Times of collectives and links: what is measured, and which node or pair is named."""

import json
import time
from typing import Any

import pytest
import torch

from mmbert.hardware import find_gpu, gpu_of_device
from mmbert.model.config import encoder_config
from mmbert.parallel.host_group import HostGroup
from mmbert.parallel.process_grid import build_grid
from mmbert.recipe import Recipe, parse_recipe
from mmbert.training.nodes import links
from mmbert.training.nodes.link_report import LinkReport, check_links, link_report
from mmbert.training.nodes.links import GroupTimes, Link, RankTimes, measure
from mmbert.training.nodes.node_map import NodeMap
from tests.support.fake_nodes import nodes_of
from tests.support.ranks import run_ranks
from tests.support.small_run import RECIPE

HOSTS = ["a", "b", "c"]


def recipe() -> Recipe:
    return parse_recipe(RECIPE)


def with_a_slow_sender(rank: int, world_size: int) -> LinkReport | None:
    nodes, host_group = nodes_of(HOSTS, rank, world_size)
    exchange = links.dist.batch_isend_irecv

    def slow(operations: list[Any]) -> Any:
        if rank == 1 and operations[0].op is links.dist.isend:
            time.sleep(0.1)
        return exchange(operations)

    links.dist.batch_isend_irecv = slow
    encoder = encoder_config(recipe().model, 256)
    grid = build_grid(tensor_parallel=1)
    return check_links(recipe(), encoder, grid, torch.device("cpu"), nodes, host_group)


def test_a_slow_link_between_nodes_is_named_on_all_ranks() -> None:
    found = run_ranks(with_a_slow_sender, 3)
    assert found[0] == found[1] == found[2]
    report = found[0]
    assert "b (rank 1) to c (rank 2)" in report.warnings[0]
    assert report.details["links"]["data, between nodes"]["links"] == 3
    json.dumps(report.details)


def two_by_two(rank: int, world_size: int) -> tuple[RankTimes, bool]:
    nodes_of(["a"] * world_size, rank, world_size)
    before = torch.random.get_rng_state()
    grid = build_grid(tensor_parallel=2)
    found = measure(recipe(), encoder_config(recipe().model, 256), grid, torch.device("cpu"))
    return found, torch.equal(before, torch.random.get_rng_state())


def test_each_link_is_measured_once_at_its_receiver_with_the_runs_messages() -> None:
    found = run_ranks(two_by_two, 4)
    sizes = set()
    for rank, (times, same_random_state) in found.items():
        assert same_random_state
        data, tensor = times.links
        assert (data.group, data.sender, data.receiver) == ("data", (rank + 2) % 4, rank)
        assert (tensor.group, tensor.sender, tensor.receiver) == ("tensor", rank ^ 1, rank)
        assert [group.first_rank for group in times.groups] == [rank % 2, rank // 2 * 2]
        sizes |= {(group.group, tuple(group.bytes.values())) for group in times.groups}
        assert all(value > 0 for group in times.groups for value in group.seconds.values())
    parameters = (256 * 32 + 2 * 32 * (4 * 32 + 3 * 48)) // 2
    assert sizes == {("data", (4 * parameters,) * 3), ("tensor", (256 * 32 * 4,) * 3)}


def a_ring(seconds: dict[tuple[int, int], float], count: int) -> list[RankTimes]:
    """Times of a ring over one rank of each node, 1 ms where `seconds` says nothing."""
    group = GroupTimes("data", count, 0, dict.fromkeys(NAMES, 0.1), dict.fromkeys(NAMES, 10**9))
    pairs = [((rank - 1) % count, rank) for rank in range(count)]
    return [
        RankTimes((group,), (Link("data", *pair, 10**6, seconds.get(pair, 0.001)),))
        for pair in pairs
    ]


NAMES = ("all-reduce", "all-gather", "reduce-scatter")


def nodes_named(count: int) -> NodeMap:
    names = tuple(f"n{number}" for number in range(count))
    return NodeMap(names, tuple(range(count)), HostGroup(0, 1), HostGroup(0, 1))


@pytest.mark.parametrize("count", [3, 4, 9])
def test_a_node_whose_links_are_slow_in_both_directions_is_named(count: int) -> None:
    slow = {(1, 2): 0.05, (2, 3 % count): 0.06}
    report = link_report(a_ring(slow, count), nodes_named(count), "cpu", None)
    (node,) = report.slow_nodes
    assert (node.name, node.rank) == ("n2", 2)
    assert report.warnings == (f"slow node n2: {node.detail}",)
    assert "60.0 times" in node.detail


def test_one_slow_direction_names_the_pair_and_small_differences_nobody() -> None:
    report = link_report(a_ring({(3, 4): 0.05}, 8), nodes_named(8), "cpu", None)
    assert not report.slow_nodes
    assert "n3 (rank 3) to n4 (rank 4)" in report.warnings[0]
    calm = {(3, 4): 0.0019, (5, 6): 0.0004}
    for device in ("cpu", "cuda"):
        assert not link_report(a_ring(calm, 8), nodes_named(8), device, None).warnings
    # A processor that was busy for a moment; the same delay of a GPU's message is a slow link.
    busy = {(3, 4): 0.015}
    assert not link_report(a_ring(busy, 8), nodes_named(8), "cpu", None).warnings
    assert link_report(a_ring(busy, 8), nodes_named(8), "cuda", None).warnings


def test_links_within_a_node_count_on_gpus_only() -> None:
    nodes = NodeMap(("n0",), (0,) * 8, HostGroup(0, 1), HostGroup(0, 1))
    times = a_ring({(3, 4): 0.05, (4, 5): 0.05}, 8)
    assert not link_report(times, nodes, "cpu", None).warnings
    (node,) = link_report(times, nodes, "cuda", None).slow_nodes
    assert node.name == "n0"


def test_groups_far_below_the_plan_are_said() -> None:
    # 8 ranks send 2 · 7/8 GB in 0.1 s
    gpu = find_gpu("h100")
    report = link_report(a_ring({}, 8), nodes_named(8), "cuda", gpu)
    assert "all-reduce 17.5 GB/s, all-gather 8.75 GB/s" in report.text
    assert "(planned 450 GB/s)" in report.text
    (warning,) = report.warnings
    assert "data groups reach 17.5 GB/s of the 450 GB/s" in warning
    assert not link_report(a_ring({}, 8), nodes_named(8), "cuda", None).warnings


def test_gpus_of_the_planner_are_found_by_the_devices_name() -> None:
    assert gpu_of_device("NVIDIA H100 80GB HBM3") == find_gpu("h100")
    assert gpu_of_device("NVIDIA H100 PCIe") is None
    assert gpu_of_device("Tesla T4") is None
