"""Exchange of a step's rows between data ranks, so that other hosts compute them."""

import io
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from mmbert.data.loading.rows import Row
from mmbert.parallel.host_group import HostGroup
from mmbert.parallel.process_grid import ProcessGrid

# A row's place in its stream stays with the rank that read it.
_FIELDS = tuple(field.name for field in fields(Row) if field.name != "stream_state")


def rows_of_another_host(
    rows: Sequence[Row], hosts: Sequence[str], grid: ProcessGrid, group: HostGroup
) -> list[Row]:
    """Send this rank's rows to another data rank and return those of a third; collective.

    Args:
        hosts: host of each data rank. As many rows as possible go to another host.
    """
    ranks, tensor = grid.data.size, grid.tensor.size
    if ranks == 1:
        raise ValueError("a single data rank has nobody to exchange rows with")
    shift = max(range(1, ranks), key=lambda shift: (_leaving(hosts, shift), -shift))
    place = grid.data.rank
    received = group.exchange(
        _pack(rows),
        to=(place - shift) % ranks * tensor + grid.tensor.rank,
        source=(place + shift) % ranks * tensor + grid.tensor.rank,
    )
    return _unpack(received)


def _leaving(hosts: Sequence[str], shift: int) -> int:
    """Return how many data ranks' rows go to another host."""
    return sum(host != hosts[place - shift] for place, host in enumerate(hosts))


def _pack(rows: Sequence[Row]) -> bytes:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {
        f"{number} {name}": getattr(row, name)
        for number, row in enumerate(rows)
        for name in _FIELDS
    }
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _unpack(data: bytes) -> list[Row]:
    rows: dict[str, dict[str, Any]] = {}
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        for key in arrays.files:
            number, name = key.split(" ")
            value = arrays[key]
            rows.setdefault(number, {})[name] = value if value.ndim else value.item()
    return [Row(**values, stream_state=None) for values in rows.values()]
