"""Nodes of a run: which rank runs where, and the groups that do a thing once per node."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from mmbert.parallel.host_group import HostGroup

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_SHOWN = 4


@dataclass(frozen=True)
class NodeMap:
    """Nodes in the order of their first ranks. A node is a host name and a boot of its kernel."""

    names: tuple[str, ...]
    """Host names; a second node of the same name has a number."""
    node_of_rank: tuple[int, ...]
    """Index in `names` of every rank's node."""
    own: HostGroup
    """Ranks of this node."""
    across: HostGroup
    """Ranks of all nodes with this rank's place on its node: on first ranks, all first ranks."""
    rank: int = 0

    @classmethod
    def discover(cls, host_group: HostGroup, timeout: timedelta) -> "NodeMap":
        """Find the node of every rank with one gather, and build the groups. Collective."""
        found = host_group.gather(_this_node())
        nodes = list(dict.fromkeys(found))
        node_of_rank = tuple(nodes.index(node) for node in found)
        own, across = host_group, HostGroup(0, 1)
        if len(nodes) == len(found):
            own, across = HostGroup(0, 1), host_group
        elif len(nodes) > 1:
            me = node_of_rank[host_group.rank]
            place = _places(node_of_rank)
            own = host_group.subgroup(
                [r for r, node in enumerate(node_of_rank) if node == me], timeout
            )
            mine = place[host_group.rank]
            across = host_group.subgroup(
                [r for r, other in enumerate(place) if other == mine], timeout
            )
        return cls(
            _distinct([name for name, _ in nodes]), node_of_rank, own, across, host_group.rank
        )

    @property
    def name(self) -> str:
        """Name of this node."""
        return self.names[self.node_of_rank[self.rank]]

    @property
    def is_first_rank(self) -> bool:
        """Whether this rank does what a node does once."""
        return self.own.is_rank_zero

    def name_of(self, rank: int) -> str:
        """Return the name of a rank's node."""
        return self.names[self.node_of_rank[rank]]

    def ranks_of(self, name: str) -> list[int]:
        """Return the ranks of a node, by its name."""
        node = self.names.index(name)
        return [rank for rank, other in enumerate(self.node_of_rank) if other == node]


def listed(names: Sequence[str], shown: int = _SHOWN) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _this_node() -> tuple[str, str]:
    """Return the host name, and the boot, by which nodes of one name differ."""
    try:
        return socket.gethostname(), _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:  # no Linux
        return socket.gethostname(), ""


def _places(node_of_rank: Sequence[int]) -> list[int]:
    """Return how many earlier ranks every rank's node has."""
    return [node_of_rank[:rank].count(node) for rank, node in enumerate(node_of_rank)]


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Number the later of equal names."""
    return tuple(
        name if (number := names[:place].count(name) + 1) == 1 else f"{name} ({number})"
        for place, name in enumerate(names)
    )
