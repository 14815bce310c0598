"""The largest process grid of a recipe that fits the nodes that a job was given."""

from collections.abc import Sequence
from dataclasses import dataclass

from mmbert.errors import LauncherError
from mmbert.recipe.division import divided_by_data
from mmbert.recipe.sections import BatchSettings, ParallelSettings


@dataclass(frozen=True)
class Placement:
    """Hosts of a start, with the number of ranks on each; ranks are numbered host by host."""

    hosts: tuple[str, ...]
    tasks_per_node: int
    tasks: int
    idle: str = ""
    """What of the allocation has no rank, for a message; empty if all has."""

    def host_of(self, rank: int) -> str:
        """Return the host of a rank."""
        return self.hosts[rank // self.tasks_per_node]


def place_all(hosts: Sequence[str], tasks_per_node: int) -> Placement:
    """Return the placement with a rank for every task of the allocation."""
    return Placement(tuple(hosts), tasks_per_node, len(hosts) * tasks_per_node)


def place_largest(
    hosts: Sequence[str], tasks_per_node: int, batch: BatchSettings, parallel: ParallelSettings
) -> Placement:
    """Return the placement of as many ranks as fit the recipe, with its tensor-parallel size.

    Every rank has an equal share of the rows of a step, so the batch does not depend on the grid.

    Raises:
        LauncherError: the allocation has less than one tensor group.
    """
    available, tensor = len(hosts) * tasks_per_node, parallel.tensor
    data = next(
        (size for size in range(available // tensor, 0, -1) if divided_by_data(batch, size)), 0
    )
    if data == 0:
        sizes = [n * tensor for n in range(1, batch.quantum + 1) if divided_by_data(batch, n)]
        raise LauncherError(
            f"the job has {available} task(s), less than parallel.tensor ({tensor}) needs",
            remedy=f"request nodes for one of these numbers of tasks: {', '.join(map(str, sizes))}",
        )
    tasks = data * tensor
    used = -(-tasks // tasks_per_node)
    idle = [f"all of {host}" for host in hosts[used:]]
    rest = used * tasks_per_node - tasks
    if rest:
        idle.insert(0, f"{rest} of {tasks_per_node} tasks on {hosts[used - 1]}")
    return Placement(tuple(hosts[:used]), tasks_per_node, tasks, _shortened(idle))


def _shortened(parts: Sequence[str], shown: int = 8) -> str:
    more = len(parts) - shown
    return ", ".join(parts[:shown]) + (f" and {more} more" if more > 0 else "")
