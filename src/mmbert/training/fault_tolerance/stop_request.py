"""Stop requests: signals, a STOP file in the run folder, death of the launcher.

The signal handler only sets a flag. `StopRequest.reason()` is polled once per step, after the last
microbatch has been queued. The request is all-reduced with the step's loss, so that all ranks save
the state before the same next step and exit with status 75. A signal that arrives while the host
waits for that loss takes effect one step later; Slurm's --signal must leave time for it.
"""

import os
import signal
from pathlib import Path
from types import FrameType

from mmbert.training.fault_tolerance.process_tree import launcher_chain, parent_of

STOP_FILE = "STOP"
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)


class StopRequest:
    """Detects stop requests. One per process; `close` restores the signal handlers."""

    def __init__(self, run_folder: Path) -> None:
        self._stop_file = run_folder / STOP_FILE
        self._signal: str | None = None
        self._launchers = launcher_chain(os.getpid())
        # Ignored signals stay ignored: `nohup` ignores SIGHUP.
        watched = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        self._previous = {number: signal.signal(number, self._handle) for number in watched}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C exits immediately
        self._signal = signal.Signals(number).name

    def reason(self) -> str | None:
        """Return the reason to stop, or None, at the cost of a few system calls."""
        if self._signal is not None:
            return f"received {self._signal}"
        if self._stop_file.exists():
            return f"found {self._stop_file}"
        for child, parent in self._launchers:
            if parent_of(child) != parent:
                return f"the launcher (process {parent}) is gone"
        return None

    def clear_stop_file(self) -> None:
        """Remove the STOP file, which would stop the next start."""
        self._stop_file.unlink(missing_ok=True)

    def close(self) -> None:
        """Restore the previous signal handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
