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

STOP_FILE = "STOP"

# Command lines of processes whose death means that nobody looks after the ranks any more. A login
# shell is not among them: `nohup python launch/pretrain.py &` must survive its terminal.
_LAUNCHERS = (
    "deepspeed",
    "torchrun",
    "torch.distributed",
    "mpirun",
    "mpiexec",
    "prterun",
    "prted",
    "orted",
    "hydra_pmi_proxy",
    "slurmstepd",
)
# What `deepspeed` has run on the other machines: by a shell that ssh's server starts there, and
# that outlives the connection.
_REMOTE_LAUNCHER = "deepspeed.launcher.launch"
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


def launcher_chain(process: int) -> list[tuple[int, int]]:
    """(child, parent) pairs upwards from `process` for as long as the parent is a launcher.

    `deepspeed` is two processes above a rank: when the upper one is killed, the lower one and the
    ranks live on, untold; only the lower one's parent changes. On another machine the place of the
    upper one is taken by ssh's server.
    """
    chain: list[tuple[int, int]] = []
    parent = parent_of(process)
    while parent is not None and parent > 1 and _looks_after(parent, process):
        chain.append((process, parent))
        process, parent = parent, parent_of(parent)
    return chain


def parent_of(process: int) -> int | None:
    """The parent's process id, None when the process is gone or the system has no /proc."""
    if process == os.getpid():
        return os.getppid()
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return None
    # "pid (name) state ppid …"; the name may hold spaces and brackets.
    state, parent = status.rpartition(")")[2].split()[:2]
    return None if state in "ZX" else int(parent)


def command_of(process: int) -> list[str]:
    """The words of the command line; none when the process is gone or there is no /proc."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def _looks_after(parent: int, child: int) -> bool:
    """Whether `parent` is there to start and end `child`, and nothing else is."""
    words = command_of(parent)
    # The program, its script or its module (`python -u -m deepspeed.launcher.launch`): the first
    # few words. Later ones are arguments, where a path may contain any of the names.
    options = [word for word in words[:5] if word and not word.startswith("-")][:2]
    if any(Path(word).name.startswith(_LAUNCHERS) for word in options):
        return True
    if any(_REMOTE_LAUNCHER in word for word in words[:3]):
        return True  # the shell
    return words[:1] != [] and words[0].startswith("sshd") and _runs_remote_launcher(child)


def _runs_remote_launcher(process: int) -> bool:
    return any(_REMOTE_LAUNCHER in word for word in command_of(process)[:5])
