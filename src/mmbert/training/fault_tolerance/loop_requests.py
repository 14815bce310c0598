"""Requests that a rank may raise between steps: stop, save, or abort on a logging failure.

The ranks that raise each request are counted in the all-reduce of the step's scalars (see
train_step.py), or in a host-side sum where no training step runs. Reasons are exchanged only if a
rank requests a stop or an abort.
"""

from dataclasses import dataclass
from typing import NamedTuple

from mmbert.errors import UserError
from mmbert.parallel.host_group import HostGroup


class RequestCounts(NamedTuple):
    """Number of ranks that raise each request."""

    stop: float
    save: float
    failure: float


@dataclass(frozen=True)
class LoopRequests:
    """Requests of one rank, or of all ranks combined."""

    stop: str | None = None
    """Reason to save and exit."""
    save: bool = False
    failure: UserError | None = None
    """Rank 0's failure to write logs, to be raised after saving, or its loss of the run folder."""

    def flags(self) -> RequestCounts:
        """Return 1 for each request that is raised, 0 for the others."""
        return RequestCounts(
            stop=float(self.stop is not None),
            save=float(self.save),
            failure=float(self.failure is not None),
        )

    def sync(self, host_group: HostGroup) -> "LoopRequests":
        """Combine the requests of all ranks with a host-side sum; collective."""
        return self.resolve(RequestCounts._make(host_group.sum(self.flags())), host_group)

    def resolve(self, counts: RequestCounts, host_group: HostGroup) -> "LoopRequests":
        """Combine the requests of all ranks, given the sums of their flags; collective.

        Every rank gets the same result. Sends nothing unless a rank requests a stop or an abort.
        """
        reasons = host_group.gather(self.stop) if counts.stop > 0 else []
        return LoopRequests(
            stop=next((reason for reason in reasons if reason is not None), None),
            save=counts.save > 0,
            failure=host_group.broadcast(self.failure) if counts.failure > 0 else None,
        )
