"""The faults of a drill: how each is caused, and what has to happen before the run is continued."""

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmbert.checkpoint.store import list_checkpoints
from mmbert.errors import (
    EXIT_FAILURE,
    EXIT_SAVED_START_AGAIN,
    EXIT_USER_ERROR,
    ArgumentError,
)
from mmbert.fault_drill.injection import UNDISTURBED, Action, Injection

VICTIM = 1
"""Rank that the fault happens to, if it happens to one."""
_STEP = 18
_LARGEST_FILE = 100_000
_HANG_MINUTES = 0.5


@dataclass(frozen=True)
class Fault:
    """A fault that ends the ranks of a start, or that damages the newest checkpoint."""

    name: str
    does: str
    """What the drill does, for people."""
    expects: str
    """What has to happen, for people; the same command then continues the run."""
    injection: Injection = UNDISTURBED
    on_all_ranks: bool = False
    statuses: tuple[int | None, int | None] = (0, 0)
    """Exit statuses of the victim and of the other ranks; None: does not end by itself."""
    says: tuple[str, ...] = ()
    """Parts of what is printed."""
    overrides: tuple[str, ...] = ()
    damage: Callable[[Path], Path] | None = None
    """Damages a checkpoint and returns the file; the run before was not disturbed."""
    cut_after: int | None = None
    """Bytes through the proxy before rank 0 after which it is cut; None: no proxy."""


def newest_checkpoint(run: Path) -> Path:
    """Return the newest checkpoint of a run."""
    return list_checkpoints(run / "checkpoints")[-1]


def _flip_bit(checkpoint: Path) -> Path:
    path = checkpoint / "rank-00000.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path


def _truncate(checkpoint: Path) -> Path:
    path = checkpoint / "rank-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    return path


def _remove(checkpoint: Path) -> Path:
    path = checkpoint / "rank-00000.safetensors"
    path.unlink()
    return path


def _stop_by(number: signal.Signals) -> Fault:
    return Fault(
        name=f"preempt-{number.name.removeprefix('SIG').lower()}",
        does=f"send {number.name} to a rank in a step, as a batch system before it takes the node",
        expects="all ranks save and leave with status 75",
        injection=Injection(action=Action.SIGNAL, step=_STEP, value=number),
        statuses=(EXIT_SAVED_START_AGAIN, EXIT_SAVED_START_AGAIN),
        says=(f"received {number.name}",),
    )


FAULTS = (
    Fault(
        name="kill",
        does="kill a rank in a step with SIGKILL",
        expects="the others leave by themselves",
        injection=Injection(action=Action.SIGNAL, step=_STEP, value=signal.SIGKILL),
        statuses=(-signal.SIGKILL, EXIT_FAILURE),
    ),
    Fault(
        name="suspend",
        does=f"suspend a rank in a step with SIGSTOP, for longer than the hang limit "
        f"({_HANG_MINUTES:g} minutes here)",
        expects="the watchdog names the rank, and the others leave",
        injection=Injection(action=Action.SIGNAL, step=_STEP, value=signal.SIGSTOP),
        statuses=(None, EXIT_FAILURE),
        says=(f"rank {VICTIM} (", "is unresponsive"),
        overrides=(f"guard.hang_minutes={_HANG_MINUTES}",),
    ),
    Fault(
        name="full-disk",
        does=f"limit the files of the ranks to {_LARGEST_FILE:,} bytes, in place of a full disk",
        expects="the checkpoint that cannot be written is named, and all ranks leave",
        injection=Injection(action=Action.LIMIT_FILE_SIZE, value=_LARGEST_FILE),
        on_all_ranks=True,
        statuses=(EXIT_USER_ERROR, EXIT_USER_ERROR),
        says=("cannot write checkpoint", "free space"),
    ),
    Fault(
        name="bit-flip",
        does="flip a bit of a file of the newest checkpoint",
        expects="the file is named, and the run continues from the checkpoint before",
        damage=_flip_bit,
        says=("is corrupted (checksum mismatch)",),
    ),
    Fault(
        name="truncated",
        does="shorten a file of the newest checkpoint",
        expects="the file is named, and the run continues from the checkpoint before",
        damage=_truncate,
        says=("is truncated",),
    ),
    Fault(
        name="missing",
        does="remove a file of the newest checkpoint",
        expects="the file is named, and the run continues from the checkpoint before",
        damage=_remove,
        says=("is missing",),
    ),
    Fault(
        name="rendezvous",
        does="cut the connection of a rank to rank 0 during the start, in a proxy before its port",
        expects="the rank leaves with an error (the launcher ends the others, which wait for it)",
        cut_after=1_000,
        statuses=(EXIT_FAILURE, None),
    ),
    Fault(
        name="connections",
        does="shut down all TCP connections of a rank in a step",
        expects="all ranks leave by themselves",
        injection=Injection(action=Action.CUT_CONNECTIONS, step=_STEP),
        statuses=(EXIT_FAILURE, EXIT_FAILURE),
    ),
    _stop_by(signal.SIGUSR1),
    _stop_by(signal.SIGTERM),
)
"""All faults, in the order of a drill."""


def select_faults(names: tuple[str, ...]) -> tuple[Fault, ...]:
    """Return the faults of these names, or all without names. Raises ArgumentError."""
    known = [fault.name for fault in FAULTS]
    for name in names:
        if name not in known:
            raise ArgumentError(
                f"--only {name!r} is not a fault", remedy=f"choose from: {', '.join(known)}"
            )
    return tuple(fault for fault in FAULTS if not names or fault.name in names)
