"""When to save and leave: signals, a STOP file in the run folder, the launcher's death.

A handler only raises a flag. `StopRequest.reason()` is asked once per step, when its last
microbatch has been queued, and the answer reaches all ranks with the step's loss, so that all save
the state before the same next step and leave with status 75. What comes later, while the host waits
for those figures, is heard with the next step's: a run may leave one step later after a signal, and
Slurm's --signal must leave the time for it.
"""

import os
import signal
from pathlib import Path
from types import FrameType

from mmbert.training.fault_tolerance.process_tree import launcher_chain, parent_of

STOP_FILE = "STOP"
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)


class StopRequest:
    """Watches for the wish to stop. One per process; `close()` gives the signals back."""

    def __init__(self, run_folder: Path) -> None:
        self._stop_file = run_folder / STOP_FILE
        self._signal: str | None = None
        self._launchers = launcher_chain(os.getpid())
        # What is ignored stays so: `nohup` has SIGHUP ignored.
        watched = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        self._previous = {number: signal.signal(number, self._handle) for number in watched}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt  # the second Ctrl-C means it
        self._signal = signal.Signals(number).name

    def reason(self) -> str | None:
        """Why this rank wants to stop, None when it does not. Costs a few system calls."""
        if self._signal is not None:
            return f"received {self._signal}"
        if self._stop_file.exists():
            return f"found {self._stop_file}"
        for child, parent in self._launchers:
            if parent_of(child) != parent:
                return f"the launcher (process {parent}) is gone"
        return None

    def clear_stop_file(self) -> None:
        """Remove the STOP file, so that the same command, started again, continues."""
        self._stop_file.unlink(missing_ok=True)

    def close(self) -> None:
        """Restore the signal handlers that were there before."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
