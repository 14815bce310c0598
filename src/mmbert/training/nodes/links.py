"""Speed of the collectives in each group, and of the links between neighbors, before training.

Messages are as large as the run's, up to a limit, so that the check takes a fraction of a second,
and at most a few seconds on a network that is far too slow. Nothing random is drawn. A collective
is as slow as its slowest link; which one that is shows in a ring, where each rank sends to the
next of its group, with one gather of the times for all.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.distributed as dist

from mmbert.model.config import EncoderConfig
from mmbert.parallel.collectives import all_gather_single, reduce_scatter_single
from mmbert.parallel.process_grid import Group, ProcessGrid
from mmbert.parallel.zero_buffers import BUCKET_ELEMENTS
from mmbert.recipe import Recipe

_LARGEST = {"cuda": 64 << 20, "cpu": 1 << 20}
"""Bytes of a message by type of device; a processor's memory and TCP need no larger ones."""
_REPETITIONS = 3
_SLOW_SECONDS = 0.5
"""Duration of a message after which it is not repeated."""


@dataclass(frozen=True)
class Link:
    """Time of one message of `bytes` from a rank to the next of its group."""

    group: str
    sender: int
    receiver: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class GroupTimes:
    """Times of one rank in a group of `size`: seconds and bytes of a message by collective."""

    group: str
    size: int
    first_rank: int
    seconds: dict[str, float] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)

    def bandwidth(self, collective: str) -> float:
        """Return the bytes/s that each rank sends in a ring, comparable to a link's."""
        rounds = 2 if collective == "all-reduce" else 1
        sent = rounds * (self.size - 1) / self.size * self.bytes[collective]
        return sent / self.seconds[collective]


@dataclass(frozen=True)
class RankTimes:
    """What one rank has measured."""

    groups: tuple[GroupTimes, ...]
    links: tuple[Link, ...]
    """Those that end at this rank."""


def measure(
    recipe: Recipe, encoder: EncoderConfig, grid: ProcessGrid, device: torch.device
) -> RankTimes:
    """Time the collectives and neighbors of this rank's groups. Collective."""
    largest = _LARGEST[device.type]
    width = 2 if recipe.precision == "bfloat16" else 4
    parameters = min(_matrix_elements(encoder) // grid.tensor.size, BUCKET_ELEMENTS)
    tokens = recipe.batch.row_tokens * recipe.model.hidden_size * width
    data_bytes = {
        "all-reduce": 4 * parameters,
        "reduce-scatter": 4 * parameters,
        "all-gather": width * parameters,
    }
    tensor_bytes = dict.fromkeys(data_bytes, tokens)
    groups, links = [], []
    first = {"data": grid.tensor.rank, "tensor": grid.data.rank * grid.tensor.size}
    stride = {"data": grid.tensor.size, "tensor": 1}
    members: dict[str, Group] = {"data": grid.data, "tensor": grid.tensor}
    for name, sizes in (("data", data_bytes), ("tensor", tensor_bytes)):
        group = members[name]
        if group.size == 1:
            continue
        limited = {collective: min(size, largest) for collective, size in sizes.items()}
        groups.append(_time_collectives(name, first[name], group, limited, device))
        links.append(_time_ring(name, first[name], stride[name], group, largest, device))
    return RankTimes(tuple(groups), tuple(links))


def _matrix_elements(encoder: EncoderConfig) -> int:
    """Estimate the parameters; no model exists yet, and the largest message limits them anyway."""
    layer = encoder.hidden_size * (4 * encoder.hidden_size + 3 * encoder.intermediate_size)
    return encoder.vocab_size * encoder.hidden_size + encoder.num_hidden_layers * layer


def _time_collectives(
    name: str, first: int, group: Group, sizes: dict[str, int], device: torch.device
) -> GroupTimes:
    found = GroupTimes(name, group.size, first)
    for collective, size in sizes.items():
        shard = torch.zeros(max(1, size // 4 // group.size), device=device)
        whole = torch.zeros(len(shard) * group.size, device=device)
        runs: dict[str, Callable[[], object]] = {
            "all-reduce": partial(dist.all_reduce, whole, group=group.group),
            "all-gather": partial(all_gather_single, whole, shard, group=group.group),
            "reduce-scatter": partial(reduce_scatter_single, shard, whole, group=group.group),
        }
        found.bytes[collective] = 4 * len(whole)
        found.seconds[collective] = _shortest(runs[collective], group, device)
    return found


def _time_ring(
    name: str, first: int, stride: int, group: Group, size: int, device: torch.device
) -> Link:
    """Time the link from the previous rank of the group to this one.

    Neighbors take turns, so that a rank only sends or only receives at a time: the links from even
    places, those from odd ones, and in a ring of odd size the one that closes it.
    """
    rank, count = group.rank, group.size
    before, after = (rank - 1) % count, (rank + 1) % count
    message = torch.zeros(size // 4, device=device)
    seconds = 0.0
    for turn in range(3 if count % 2 else 2):
        operation = None
        if _turn(rank, count) == turn:
            operation = dist.P2POp(dist.isend, message, first + stride * after, group.group)
        elif _turn(before, count) == turn:
            operation = dist.P2POp(dist.irecv, message, first + stride * before, group.group)

        def exchange(operation: dist.P2POp | None = operation) -> None:
            for work in dist.batch_isend_irecv([operation]) if operation is not None else ():
                work.wait()

        taken = _shortest(exchange, group, device)
        if _turn(before, count) == turn:
            seconds = taken
    return Link(name, first + stride * before, first + stride * rank, 4 * len(message), seconds)


def _turn(sender: int, count: int) -> int:
    return 2 if count % 2 and sender == count - 1 else sender % 2


def _shortest(run: Callable[[], object], group: Group, device: torch.device) -> float:
    """Return the shortest of several runs after a first one, which opens connections."""
    times: list[float] = []
    for repetition in range(_REPETITIONS + 1):
        # Begins at one time on all ranks, and tells them whether the last one was slow.
        slowest = torch.tensor([times[-1] if times else 0.0], device=device)
        dist.all_reduce(slowest, dist.ReduceOp.MAX, group=group.group)
        if slowest.item() > _SLOW_SECONDS and repetition > 1:
            break
        _wait_for(device)
        begin = time.perf_counter()
        run()
        _wait_for(device)
        times.append(time.perf_counter() - begin)
    return min(times[1:])


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
