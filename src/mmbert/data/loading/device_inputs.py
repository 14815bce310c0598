"""Prefetching of a step's rows to the device during the computation of the previous row."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmbert.data.loading.device_batch import to_batch
from mmbert.data.loading.rows import Row
from mmbert.model.packed_batch import PackedBatch


@dataclass(frozen=True)
class Microbatch:
    """One microbatch on the device."""

    batch: PackedBatch
    components: Tensor
    """int64 [K]: component of each masked token, −1 for an empty slot."""


def prefetch_to_device(device: torch.device, rows: Sequence[Row]) -> Iterator[Microbatch]:
    """Yield the rows in order as microbatches on `device`.

    On a GPU, the next row is copied from pinned memory on a separate stream before the current one
    is yielded. Never waits for the device.
    """
    if device.type != "cuda":
        yield from (_send(row, device) for row in rows)
        return
    copying, waiting = torch.cuda.Stream(device), deque[tuple[Microbatch, Any]]()
    for number in range(len(rows)):
        for row in rows[number + len(waiting) : number + 2]:
            waiting.append(_send_on(copying, row, device))
        present, arrived = waiting.popleft()
        computing = torch.cuda.current_stream(device)
        computing.wait_event(arrived)
        for tensor in (present.components, *vars(present.batch).values()):
            if isinstance(tensor, Tensor):
                tensor.record_stream(computing)  # delays its reuse by the copy stream
        yield present


def _send(row: Row, device: torch.device) -> Microbatch:
    components = torch.from_numpy(row.masked_components).to(torch.int64, copy=True)
    if device.type == "cuda":
        components = components.pin_memory().to(device, non_blocking=True)
    return Microbatch(to_batch(row, device), components)


def _send_on(stream: Any, row: Row, device: torch.device) -> tuple[Microbatch, Any]:
    """Copy a row on `stream`; return it and the event of its completion."""
    with torch.cuda.stream(stream):
        sent = _send(row, device)
        arrived = torch.cuda.Event()
        arrived.record(stream)
    return sent, arrived
