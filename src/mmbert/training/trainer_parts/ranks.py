"""Process groups of a run, the watchdog, and the ownership of the run folder."""

from dataclasses import dataclass, field

from mmbert.ownership import Unowned
from mmbert.parallel.host_group import HostGroup
from mmbert.parallel.process_grid import ProcessGrid
from mmbert.training.fault_tolerance.hangs.watchdog import Activity, Watchdog


@dataclass(frozen=True)
class Ranks:
    """Process groups of the run, its watchdog, and this rank's ownership of its folder."""

    grid: ProcessGrid
    """Data and tensor groups, for training communication."""
    host_group: HostGroup
    """Group of all ranks, for host-side bookkeeping."""
    watchdog: Watchdog
    owner: Unowned = field(default_factory=Unowned)
    """A `FolderOwner` on rank 0, which alone publishes files."""

    def heartbeat(self, step: int, activity: Activity) -> None:
        """Report this rank's next activity to the watchdog."""
        self.watchdog.heartbeat(step, activity)
