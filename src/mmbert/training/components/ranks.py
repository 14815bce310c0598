"""This process among the ranks of the run."""

from dataclasses import dataclass

from mmbert.parallel.host_group import HostGroup
from mmbert.parallel.process_grid import ProcessGrid
from mmbert.training.fault_tolerance.watchdog import Activity, Watchdog


@dataclass(frozen=True)
class Ranks:
    """Process groups of the run, and the watchdog over them."""

    grid: ProcessGrid
    """Data and tensor groups, for the training itself."""
    host_group: HostGroup
    """All ranks, for bookkeeping on the host."""
    watchdog: Watchdog

    def heartbeat(self, step: int, activity: Activity) -> None:
        """Tell the watchdog what this rank does next."""
        self.watchdog.heartbeat(step, activity)
