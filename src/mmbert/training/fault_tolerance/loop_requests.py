"""What ranks want before the next step: to stop, to save, to leave as figures cannot be written.

Each rank has its own wishes; how many ranks have which one travels with the figures of a step (see
train_step.py), or, where there was no step to carry it, in a message of its own. Only when somebody
wants to leave do the ranks also tell each other why.
"""

from dataclasses import dataclass
from typing import NamedTuple

from mmbert.errors import UserError
from mmbert.parallel.host_group import HostGroup


class RequestCounts(NamedTuple):
    """Number of ranks that make each request."""

    stop: float
    save: float
    failure: float


@dataclass(frozen=True)
class LoopRequests:
    """Of one rank, or of all together; none unless given."""

    stop: str | None = None
    """Why to save and leave."""
    save: bool = False
    failure: UserError | None = None
    """Why rank 0 can write no more figures: to be raised when all is saved."""

    def flags(self) -> RequestCounts:
        """1 for each request that is made, else 0."""
        return RequestCounts(
            stop=float(self.stop is not None),
            save=float(self.save),
            failure=float(self.failure is not None),
        )

    def sync(self, host_group: HostGroup) -> "LoopRequests":
        """Combine the requests of all ranks in a message of its own (every rank calls it)."""
        return self.resolve(RequestCounts._make(host_group.sum(self.flags())), host_group)

    def resolve(self, counts: RequestCounts, host_group: HostGroup) -> "LoopRequests":
        """All ranks' wishes, alike on every rank, given each one's own and the sums of their flags.

        Every rank calls it, but it sends nothing unless some rank wants to leave.
        """
        reasons = host_group.gather(self.stop) if counts.stop > 0 else []
        return LoopRequests(
            stop=next((reason for reason in reasons if reason is not None), None),
            save=counts.save > 0,
            failure=host_group.broadcast(self.failure) if counts.failure > 0 else None,
        )
