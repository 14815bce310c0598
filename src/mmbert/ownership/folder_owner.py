"""Owner file of a folder, with a lease that a thread renews; a second owner is refused.

The file names the owner (see `Identity`); its modification time is the last renewal. An owner is
dead if its process is gone, as far as that can be seen, or if its lease has run out by the clock of
the file system. Whoever takes a folder replaces the file, and the former owner, if it still runs,
finds that before its next write.
"""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from mmbert.errors import OutputError
from mmbert.files import explained_write_errors, make_folder
from mmbert.ownership.identity import Identity, this_process
from mmbert.ownership.owner_file import (
    OWNER_NAME,
    OwnerFile,
    create,
    draft_of,
    exclusive,
    now_in,
    read_owner_file,
)


@dataclass(frozen=True)
class Lease:
    """Seconds between renewals, and from the last renewal to the end of the lease."""

    renewal: float = 30.0
    life: float = 180.0


DEFAULT_LEASE = Lease()


class OwnershipLostError(OutputError):
    """The folder has another owner now, or its owner file was removed."""


class Unowned:
    """Ownership of a process that writes nothing of its own, or of a folder without an owner."""

    @property
    def lost(self) -> OwnershipLostError | None:
        """Error for this process once the last renewal has found another owner."""
        return None

    @property
    def taken_from(self) -> str | None:
        """Earlier owner and why it was taken for dead, for a message."""
        return None

    def check(self) -> None:
        """Raise OwnershipLostError unless this process still owns the folder."""

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Check, then run the block, in which the folder is not released."""
        self.check()
        yield

    def release(self) -> None:
        """Remove the owner file, if it is still this process's."""

    def __enter__(self) -> Self:
        """Own the folder in a `with` block."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Release the folder."""
        self.release()


class FolderOwner(Unowned):
    """Ownership of a folder by this process; get it from `take_folder`."""

    def __init__(
        self, path: Path, me: Identity, lease: Lease, what: str, taken_from: str | None
    ) -> None:
        self._path, self._me, self._lease, self._what = path, me, lease, what
        self._taken_from = taken_from
        self._lost: OwnershipLostError | None = None
        self._lock = threading.RLock()
        self._stop = threading.Event()
        # Renewed through the open file: after it was replaced, that does not touch the new one.
        self._file = os.open(path, os.O_RDONLY)
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> OwnershipLostError | None:
        """Error for this process once it has found another owner."""
        return self._lost

    @property
    def taken_from(self) -> str | None:
        """Earlier owner and why it was taken for dead, for a message."""
        return self._taken_from

    def check(self) -> None:
        """Raise OwnershipLostError unless this process still owns the folder.

        Opens the file, which makes network file systems look for a new one.
        """
        if self._lost is None:
            # A missing file was removed by the next owner at its end, or by the user.
            self._lost = _loss(self._path, self._me.token, self._what)
        if self._lost is not None:
            raise self._lost

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Check, then run the block, in which the folder is not released."""
        with self._lock:
            self.check()
            yield

    def release(self) -> None:
        """Stop renewing; remove the owner file, if it is still this process's."""
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(OwnershipLostError, OSError), self.writing():
            self._path.unlink()
            self._lost = _loss(self._path, self._me.token, self._what)
        os.close(self._file)

    def _renew(self) -> None:
        while not self._stop.wait(self._lease.renewal):
            with contextlib.suppress(OSError):  # the next renewal may succeed
                try:
                    self.check()
                except OwnershipLostError:
                    return
                os.utime(self._file)


class OwnerWitness(Unowned):
    """Check for a process that works for the owner of a folder, in another process."""

    def __init__(self, path: Path, what: str) -> None:
        """Take the present owner for this process's.

        Args:
            path: owner file.
            what: the folder in messages.
        """
        held = read_owner_file(path)
        self._path, self._what = path, what
        self._token = held.identity.token if held and held.identity else ""

    def check(self) -> None:
        """Raise OwnershipLostError unless the owner is still the same."""
        lost = _loss(self._path, self._token, self._what)
        if lost is not None:
            raise lost


def _loss(path: Path, token: str, what: str) -> OwnershipLostError | None:
    """Return the error for the owner with this token, unless the folder is still its."""
    held = read_owner_file(path)
    now = held.identity if held else None
    if now is not None and now.token == token:
        return None
    by = f"was taken over by {now.describe()}" if now else f"lost its {path.name}"
    return OwnershipLostError(
        f"{what} {by}; this process ({os.getpid()} on {socket.gethostname()}) has stopped writing "
        "to it",
        remedy="do nothing if another start was meant to go on; otherwise run the same command "
        "again once no process writes to the folder",
    )


def take_folder(
    folder: Path,
    *,
    what: str | None = None,
    force: str | None = None,
    forced: bool = False,
    name: str = OWNER_NAME,
    me: Identity | None = None,
    lease: Lease | None = None,
) -> FolderOwner:
    """Make this process the owner of `folder`, which is created if it is missing.

    Args:
        what: the folder in messages (default: `the folder PATH`).
        force: option that takes the folder from a live owner, for messages.
        forced: whether it was given.
        name: name of the owner file in the folder.
        me: identity to own the folder as (default: this process's).
        lease: durations; None: `DEFAULT_LEASE`.

    Raises:
        OutputError: another process owns the folder, or it cannot be written.
    """
    me = this_process() if me is None else me
    lease = DEFAULT_LEASE if lease is None else lease
    path, what = folder / name, what or f"the folder {folder}"
    try:
        make_folder(folder)
        with explained_write_errors(path), draft_of(path, me) as draft, exclusive(path):
            taken_from = None
            if not create(draft, path):
                held = read_owner_file(path)
                if held is not None:
                    age = now_in(folder) - held.renewed
                    taken_from = _why_dead(held, me, age, lease, forced=forced)
                    if taken_from is None:
                        raise _refusal(what, held, age, lease, force)
                os.replace(draft, path)
            return FolderOwner(path, me, lease, what, taken_from)
    except OSError as error:
        raise OutputError(
            f"cannot write to {folder}: {error.strerror}", remedy="choose another --output"
        ) from error


def _why_dead(
    held: OwnerFile, me: Identity, age: float, lease: Lease, *, forced: bool
) -> str | None:
    """Describe the owner and why its folder may be taken; None if it may not."""
    owner = held.identity
    named = owner.describe() if owner else "an unknown process"
    if owner is not None and owner.is_gone():
        return f"{named} is gone"
    if owner is not None and owner.is_requeued_as(me):
        return f"{named} was ended by Slurm, which has started its job again"
    if age >= lease.life:
        return f"{named} gave no sign of life for {age:.0f} s"
    return f"{named} was told to give way" if forced else None


def _refusal(
    what: str, held: OwnerFile, age: float, lease: Lease, force: str | None
) -> OutputError:
    owner = held.identity
    named = owner.describe() if owner else "a process that its owner file does not name"
    wait = "wait for it to end, or stop it"
    if owner is None or owner.is_gone() is None:
        # Not seen from here, so that only time tells.
        rest = max(0.0, lease.life - max(0.0, age))
        wait += f"; if it is dead, run the same command again in {rest:.0f} s"
    take = f"; {force} takes the folder from it at once" if force else ""
    return OutputError(
        f"{what} is being written by {named}; last sign of life {max(0.0, age):.0f} s ago",
        remedy=f"{wait}{take}",
    )
