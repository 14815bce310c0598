"""What ranks want before the next step: to stop, to save, to leave as figures cannot be written.

Each rank has its own wishes; how many ranks have which one travels with the figures of a step (see
train_step.py), or, where there was no step to carry it, in a message of its own. Only when somebody
wants to leave do the ranks also tell each other why.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mmbert.errors import UserError
from mmbert.parallel.host_group import HostGroup


@dataclass(frozen=True)
class LoopRequests:
    """Of one rank, or of all together; none unless given."""

    stop: str | None = None
    """Why to save and leave."""
    save: bool = False
    failure: UserError | None = None
    """Why rank 0 can write no more figures: to be raised when all is saved."""

    def flags(self) -> list[float]:
        """1 for each wish that there is, else 0."""
        return [float(self.stop is not None), float(self.save), float(self.failure is not None)]

    def resolve(self, counts: Sequence[float], host_group: HostGroup) -> "LoopRequests":
        """All ranks' wishes, alike on every rank, given each one's own and the sums of their flags.

        Every rank calls it, but it sends nothing unless some rank wants to leave.
        """
        stop, save, failure = (count > 0 for count in counts)
        reasons = host_group.gather(self.stop) if stop else []
        return LoopRequests(
            stop=next((reason for reason in reasons if reason is not None), None),
            save=save,
            failure=host_group.broadcast(self.failure) if failure else None,
        )
