"""Host-side (gloo) collectives for bookkeeping, separate from training communication.

With a separate group, messages never queue behind the device's collectives, and reading one never
waits for the device. `sum` and `maximum` send one tensor of a fixed shape; the other methods send
objects, which takes a message for their sizes too and brings every rank's to every rank: they are
for start, save and faults, not for ordinary steps and log lines.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as distributed

from mmbert.errors import UserError


@dataclass(frozen=True)
class HostGroup:
    """Collectives between the hosts of all ranks; with one process they return its own value."""

    rank: int
    world_size: int
    group: Any = None

    @classmethod
    def build(cls, timeout: timedelta) -> "HostGroup":
        """Create a gloo group over all ranks of the initialized default group. Collective."""
        if not distributed.is_initialized() or distributed.get_world_size() == 1:
            return cls(0, 1)
        group = distributed.new_group(backend="gloo", timeout=timeout)
        return cls(distributed.get_rank(), distributed.get_world_size(), group)

    def subgroup(self, ranks: Sequence[int], timeout: timedelta) -> "HostGroup":
        """Create the group of some ranks, of which this is one. Collective.

        Every rank must call this, with its own group: torch names groups by their ranks and by how
        many groups a process has, so that a rank with one group less waits forever in later ones.
        """
        group = distributed.new_group(
            list(ranks), backend="gloo", timeout=timeout, use_local_synchronization=True
        )
        return HostGroup(list(ranks).index(self.rank), len(ranks), group)

    @classmethod
    def on_default_group(cls) -> "HostGroup":
        """Wrap the default group, for programs without training communication.

        If it is not initialized: a single process.
        """
        if not distributed.is_initialized():
            return cls(0, 1)
        world = distributed.group.WORLD
        return cls(distributed.get_rank(), distributed.get_world_size(), world)

    @property
    def is_rank_zero(self) -> bool:
        """Whether this is rank 0, which writes and prints."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return element-wise sums over all ranks, in float64 (exact for counts below 2**53)."""
        if self.group is None:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(tensor, group=self.group)
        return [float(value) for value in tensor]

    def gather_numbers(self, values: Sequence[float]) -> npt.NDArray[np.float64]:
        """Return every rank's `values`, of equal length, as float64 [ranks, values]."""
        own = torch.tensor(values, dtype=torch.float64)
        if self.group is None:
            return own.numpy()[None]
        rows = own.new_empty((self.world_size, len(values)))
        distributed.all_gather(list(rows), own, group=self.group)
        return rows.numpy()

    def gather(self, value: Any) -> list[Any]:
        """Return every rank's picklable `value`, in rank order, on every rank."""
        if self.group is None:
            return [value]
        values: list[Any] = [None] * self.world_size
        distributed.all_gather_object(values, value, group=self.group)
        return values

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's picklable `value` on every rank."""
        if self.group is None:
            return value
        box = [value]
        distributed.broadcast_object_list(box, group=self.group, group_src=0)
        return box[0]

    def from_rank_zero(self, action: Callable[[], Any]) -> Any:
        """Run `action` on rank 0; return its picklable result, or raise its UserError, on all."""
        found = None
        if self.is_rank_zero:
            try:
                found = action()
            except UserError as error:
                found = error
        found = self.broadcast(found)
        if isinstance(found, UserError):
            raise found
        return found

    def share(self, action: Callable[[int, int], Any]) -> list[Any]:
        """Call `action` with the rank and their number on each; return all picklable results.

        Raises any rank's UserError on all ranks.
        """
        found: Any = None
        try:
            found = action(self.rank, self.world_size)
        except UserError as error:
            found = error
        results = self.gather(found)
        for result in results:
            if isinstance(result, UserError):
                raise result
        return results

    def raise_on_all_ranks(self, action: Callable[[], None] | None) -> None:
        """Run `action`, if given, and raise any rank's UserError on all ranks.

        If only one rank exited, the others would report just a broken connection.
        """
        error = None
        try:
            if action is not None:
                action()
        except UserError as problem:
            error = problem
        for found in self.gather(error):
            if found is not None:
                raise found

    def exchange(self, data: bytes, *, to: int, source: int) -> bytes:
        """Send `data` to rank `to` and return what rank `source` sends to this one; collective."""
        if self.group is None:
            return data
        size = torch.zeros(1, dtype=torch.int64)
        self._swap(torch.tensor([len(data)]), size, to, source)
        received = torch.zeros(int(size), dtype=torch.uint8)
        self._swap(torch.frombuffer(bytearray(data), dtype=torch.uint8), received, to, source)
        return received.numpy().tobytes()

    def _swap(self, sent: torch.Tensor, received: torch.Tensor, to: int, source: int) -> None:
        sending = distributed.isend(sent, to, group=self.group)
        distributed.recv(received, source, group=self.group)
        assert sending is not None
        sending.wait()

    def barrier(self) -> None:
        """Wait for every rank."""
        if self.group is not None:
            distributed.barrier(group=self.group)
