"""Host-side (gloo) collectives for bookkeeping, separate from training communication.

With a separate group, messages never queue behind the device's collectives, and reading one never
waits for the device.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

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
        distributed.broadcast_object_list(box, src=0, group=self.group)
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
