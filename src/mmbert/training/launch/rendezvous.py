"""Store at the address of rank 0, through which the ranks find each other."""

import errno
import os
import socket
import time
from datetime import timedelta
from typing import Any

import torch.distributed as distributed

from mmbert.errors import LauncherError


def check_address(address: str, port: int) -> None:
    """Raise LauncherError if the address of rank 0 has no meaning here; torch retries for long."""
    try:
        socket.getaddrinfo(address, port)
    except (OSError, UnicodeError) as error:
        raise LauncherError(
            f"MASTER_ADDR {address!r}, the address of rank 0, cannot be resolved: {error}",
            remedy="set it to the name of the first node, as the other nodes know it",
        ) from error


def open_rendezvous(address: str, port: int, rank: int, world_size: int, timeout: timedelta) -> Any:
    """Connect to the store at the address of rank 0, which hosts it unless `torchrun` does.

    Unlike torch's own, it does not wait for all ranks, so that the missing ones can be named.

    Args:
        timeout: how long to try to reach rank 0, and default of the store's operations.

    Raises:
        LauncherError: rank 0 cannot be reached, or its address cannot be used.
    """
    hosted_by_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True)
    try:
        return distributed.TCPStore(
            address,
            port,
            world_size,
            rank == 0 and not hosted_by_torchrun,
            timeout,
            wait_for_workers=False,
            multi_tenant=True,
        )
    except distributed.DistError as error:
        if f"errno: {errno.EACCES} " in str(error):
            raise LauncherError(
                f"rendezvous address {address}:{port} may not be used: ports below 1024 are "
                "reserved",
                remedy="set MASTER_PORT to a port from 1024 on",
            ) from error
        if "EADDRINUSE" in str(error):
            raise LauncherError(
                f"rendezvous address {address}:{port} is already in use (by another run?)",
                remedy="choose another port: deepspeed --master_port N …; for srun, mpirun and "
                "torchrun set MASTER_PORT=N",
            ) from error
        raise LauncherError(
            f"rank 0 was not reached at {address}:{port} from {socket.gethostname()}: "
            f"{str(error).splitlines()[0]}",
            remedy="see whether rank 0 started, and whether the network between the nodes lets all "
            "ports through",
        ) from error


def leave_together(store: Any, rank: int, world_size: int, *, seconds: float) -> None:
    """Let rank 0, which hosts the store, leave last, at most `seconds` after it calls this.

    Ranks that connect to each other on first use look up addresses in the store, in the last
    barrier, too.
    """
    deadline = time.monotonic() + seconds
    try:
        left = store.add("left", 1)
    except distributed.DistError:
        return  # rank 0 has waited long enough
    while rank == 0 and left < world_size and time.monotonic() < deadline:
        time.sleep(0.02)
        left = store.add("left", 0)
