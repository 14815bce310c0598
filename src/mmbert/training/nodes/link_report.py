"""Slow links by name, from the times of all ranks, and the groups' speed against the plan."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mmbert.hardware import Gpu, gpu_of_device, group_bandwidths
from mmbert.model.config import EncoderConfig
from mmbert.parallel.host_group import HostGroup
from mmbert.parallel.process_grid import ProcessGrid
from mmbert.recipe import Recipe
from mmbert.training.nodes.links import GroupTimes, Link, RankTimes, measure
from mmbert.training.nodes.node_map import NodeMap, listed

SLOW_FACTOR = 2.0
"""A link is slow if a message takes so many times as long as on the median of its kind, and a group
if it reaches less than this part of the plan.

Rings over equal links differ by less: routes share switches, and a card that has fallen back to
half its width is to be found.
"""
_MEDIAN_LINKS = 4
"""Links from which on the median is a link that nothing is wrong with, if one node is slow."""
_LEAST_EXCESS = {"cuda": 0.0005, "cpu": 0.02}
"""Seconds by which a slow link exceeds the others at least: a busy machine delays messages."""
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter")


@dataclass(frozen=True)
class SlowNode:
    """A node with slow links to more than one other rank."""

    name: str
    rank: int
    detail: str


@dataclass(frozen=True)
class LinkReport:
    """What is logged of the links, the same on all ranks."""

    text: str
    details: dict[str, Any]
    warnings: tuple[str, ...] = ()
    slow_nodes: tuple[SlowNode, ...] = ()


def check_links(
    recipe: Recipe,
    encoder: EncoderConfig,
    grid: ProcessGrid,
    device: torch.device,
    nodes: NodeMap,
    host_group: HostGroup,
) -> LinkReport | None:
    """Measure the links and compare them; None for a single process. Collective.

    What looks slow is measured once more, so that nothing is named for a moment's delay.
    """
    if grid.world_size == 1:
        return None
    gpu = gpu_of_device(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    times: list[RankTimes] = []
    report = None
    for _ in range(2):
        found = host_group.gather(measure(recipe, encoder, grid, device))
        times = _best(times, found) if times else found
        report = link_report(times, nodes, device.type, gpu)
        if not report.warnings:
            break
    return report


def link_report(
    times: Sequence[RankTimes], nodes: NodeMap, device_type: str, gpu: Gpu | None
) -> LinkReport:
    """Compare the times of all ranks with each other and, for a known GPU, with the plan.

    On a CPU, ranks of one node share memory and processors, so that only links between nodes are
    compared, with each other.
    """
    links = [
        (link, _kind(link, nodes))
        for rank in times
        for link in rank.links
        if device_type == "cuda" or nodes.name_of(link.sender) != nodes.name_of(link.receiver)
    ]
    slow: list[tuple[Link, float]] = []
    kinds = {}
    for kind in dict.fromkeys(kind for _, kind in links):
        of_kind = [link for link, other in links if other == kind]
        reference = _reference([link.seconds for link in of_kind])
        kinds[kind] = {
            "links": len(of_kind),
            "bytes_per_second": of_kind[0].bytes / reference,
            "slowest_bytes_per_second": min(link.bytes / link.seconds for link in of_kind),
        }
        excess = _LEAST_EXCESS[device_type]
        slow += [
            (link, link.seconds / reference)
            for link in of_kind
            if link.seconds > max(SLOW_FACTOR * reference, reference + excess)
        ]
    groups = _groups(times)
    planned = _planned(times, gpu)
    slow_nodes, warnings = _name(slow, nodes)
    for name, speeds in groups.items():
        plan = planned.get(name)
        if plan is not None and SLOW_FACTOR * max(speeds.values()) < plan:
            warnings.append(
                f"{name} groups reach {_rate(max(speeds.values()))} of the {_rate(plan)} that "
                "`mmbert plan` assumes for this GPU: look at the network's settings (NCCL_DEBUG, "
                "NCCL_SOCKET_IFNAME, NCCL_IB_HCA); steps will take longer than planned"
            )
    text = "; ".join(
        _group_text(name, speeds, planned.get(name)) for name, speeds in groups.items()
    )
    details = {"groups": groups, "planned": planned, "links": kinds}
    return LinkReport(f"bandwidth per rank: {text}", details, tuple(warnings), tuple(slow_nodes))


def _best(before: Sequence[RankTimes], after: Sequence[RankTimes]) -> list[RankTimes]:
    """Return each rank's shorter times of two measurements."""
    return [
        RankTimes(
            tuple(
                GroupTimes(
                    one.group,
                    one.size,
                    one.first_rank,
                    {name: min(one.seconds[name], other.seconds[name]) for name in one.seconds},
                    one.bytes,
                )
                for one, other in zip(old.groups, new.groups, strict=True)
            ),
            tuple(
                min(one, other, key=lambda link: link.seconds)
                for one, other in zip(old.links, new.links, strict=True)
            ),
        )
        for old, new in zip(before, after, strict=True)
    ]


def _kind(link: Link, nodes: NodeMap) -> str:
    same = nodes.name_of(link.sender) == nodes.name_of(link.receiver)
    return f"{link.group}, {'within nodes' if same else 'between nodes'}"


def _reference(seconds: Sequence[float]) -> float:
    """Return the lower median; of fewer links the shortest time, as one node slows two of them."""
    return min(seconds) if len(seconds) < _MEDIAN_LINKS else statistics.median_low(seconds)


def _groups(times: Sequence[RankTimes]) -> dict[str, dict[str, float]]:
    """Return the bandwidth of the slowest group by kind of group and collective."""
    found: dict[str, dict[str, float]] = {}
    for rank in times:
        for group in rank.groups:
            speeds = found.setdefault(group.group, {})
            for name in _COLLECTIVES:
                speeds[name] = min(speeds.get(name, float("inf")), group.bandwidth(name))
    return found


def _planned(times: Sequence[RankTimes], gpu: Gpu | None) -> dict[str, float]:
    if gpu is None:
        return {}
    sizes = {"data": 1, "tensor": 1}
    sizes |= {group.group: group.size for rank in times for group in rank.groups}
    data, tensor = group_bandwidths(gpu, tensor=sizes["tensor"], data=sizes["data"])
    return {"data": data, "tensor": tensor}


def _name(slow: Sequence[tuple[Link, float]], nodes: NodeMap) -> tuple[list[SlowNode], list[str]]:
    """Name the nodes that several slow links lead from and to, and the pairs of the others."""
    touching: dict[str, list[tuple[Link, float]]] = {}
    for link, factor in slow:
        for name in {nodes.name_of(link.sender), nodes.name_of(link.receiver)}:
            touching.setdefault(name, []).append((link, factor))
    found, explained = [], set()
    # The node with the most slow links first: its neighbors have those to it only.
    for name, entries in sorted(touching.items(), key=lambda entry: -len(entry[1])):
        rest = [entry for entry in entries if entry[0] not in explained]
        within = all(nodes.name_of(link.sender) == nodes.name_of(link.receiver) for link, _ in rest)
        others = {nodes.name_of(link.sender) for link, _ in rest} | {
            nodes.name_of(link.receiver) for link, _ in rest
        }
        if not rest or not (within or len(others) > 2):
            continue
        explained |= {link for link, _ in rest}
        worst, factor = max(rest, key=lambda entry: entry[1])
        detail = (
            f"{len(rest)} of its links are slow before training; between ranks {worst.sender} and "
            f"{worst.receiver} {_rate(worst.bytes / worst.seconds)}, a message takes {factor:.1f} "
            "times as long as on the others"
        )
        found.append(SlowNode(name, nodes.ranks_of(name)[0], detail))
    warnings = [f"slow node {node.name}: {node.detail}" for node in found]
    pairs: Mapping[str, float] = {
        f"{nodes.name_of(link.sender)} (rank {link.sender}) to {nodes.name_of(link.receiver)} "
        f"(rank {link.receiver}), {_rate(link.bytes / link.seconds)}": factor
        for link, factor in slow
        if link not in explained
    }
    if pairs:
        worst_factor = max(pairs.values())
        warnings.append(
            f"slow link: {listed(list(pairs), 3)}; up to {worst_factor:.1f} times as long a "
            "message as on the others; which of the two nodes is slow cannot be told"
        )
    return found, warnings


def _group_text(name: str, speeds: Mapping[str, float], plan: float | None) -> str:
    parts = ", ".join(f"{collective} {_rate(speed)}" for collective, speed in speeds.items())
    return f"{name} group {parts}" + (f" (planned {_rate(plan)})" if plan is not None else "")


def _rate(value: float) -> str:
    return f"{value / 1e9:,.3g} GB/s"
