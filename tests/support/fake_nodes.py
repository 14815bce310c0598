"""Ranks of one machine that take themselves for several nodes."""

import socket
from collections.abc import Sequence
from datetime import timedelta

import torch.distributed as distributed

from mmbert.parallel.host_group import HostGroup
from mmbert.training.nodes.node_map import NodeMap


def pretend(hosts: Sequence[str], rank: int) -> None:
    """Give this rank's process the host name of its place in `hosts`."""
    socket.gethostname = lambda: hosts[rank]


def nodes_of(hosts: Sequence[str], rank: int, world_size: int) -> tuple[NodeMap, HostGroup]:
    """Connect the ranks, each on the host of its place in `hosts`, and return their nodes."""
    pretend(hosts, rank)
    distributed.init_process_group("gloo", rank=rank, world_size=world_size)
    timeout = timedelta(seconds=120)
    host_group = HostGroup.build(timeout)
    return NodeMap.discover(host_group, timeout), host_group
