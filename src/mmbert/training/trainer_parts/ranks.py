"""Process groups of a run, and the watchdog."""

from dataclasses import dataclass

from mmbert.parallel.host_group import HostGroup
from mmbert.parallel.process_grid import ProcessGrid
from mmbert.training.fault_tolerance.watchdog import Activity, Watchdog


@dataclass(frozen=True)
class Ranks:
    """Process groups of the run, and its watchdog."""

    grid: ProcessGrid
    """Data and tensor groups, for training communication."""
    host_group: HostGroup
    """Group of all ranks, for host-side bookkeeping."""
    watchdog: Watchdog

    def heartbeat(self, step: int, activity: Activity) -> None:
        """Report this rank's next activity to the watchdog."""
        self.watchdog.heartbeat(step, activity)
