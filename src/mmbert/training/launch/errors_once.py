"""Errors of several ranks, printed once, before a launcher kills the rank that prints them."""

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch.distributed as distributed

from mmbert.errors import EXIT_USER_ERROR, UserError
from mmbert.parallel.host_group import HostGroup
from mmbert.training.launch.rendezvous import leave_together

LAST_ERROR_SECONDS = 5.0
"""How long ranks wait for each other before they leave."""


def refuse(
    errors: Sequence[UserError | None],
    rendezvous: Any,
    rank: int,
    world_size: int,
    *,
    of_nodes: Sequence[UserError] = (),
) -> int:
    """Print errors on rank 0 and return the exit status, when they have been printed.

    Launchers kill all ranks as soon as one has failed.

    Args:
        errors: by rank, or one of all.
        of_nodes: errors that are of no rank.
    """
    if rank == 0:
        for error in of_nodes:
            sys.stderr.write(f"error: {error}\n")
        _print_errors(errors)
        sys.stderr.flush()
        rendezvous.set("refused", "")
    else:
        with suppress(distributed.DistError):
            rendezvous.wait(["refused"], timedelta(seconds=LAST_ERROR_SECONDS))
    leave_together(rendezvous, rank, world_size, seconds=LAST_ERROR_SECONDS)
    return EXIT_USER_ERROR


def _print_errors(errors: Sequence[UserError | None]) -> None:
    """Print each distinct error once, with the ranks that raised it unless all did."""
    ranks_by_error: dict[str, list[int]] = {}
    for rank, error in enumerate(errors):
        if error is not None:
            ranks_by_error.setdefault(str(error), []).append(rank)
    for text, ranks in ranks_by_error.items():
        where = "" if len(ranks) == len(errors) else f" (ranks {ranks})"
        sys.stderr.write(f"error{where}: {text}\n")


def print_once(text: str, host_group: HostGroup, store: Any) -> None:
    """Print an error raised by one or all ranks, on the first rank that calls this."""
    try:
        if store is None or store.add("said", 1) == 1:
            sys.stderr.write(text)
            sys.stderr.flush()
    except distributed.DistNetworkError:
        return  # rank 0, which hosts the store, has printed an error and exited
    if host_group.is_rank_zero and store is not None:
        # The store ends with this process: wait until the other ranks have queried it.
        deadline = time.monotonic() + LAST_ERROR_SECONDS
        while store.add("said", 0) < host_group.world_size and time.monotonic() < deadline:
            time.sleep(0.05)
