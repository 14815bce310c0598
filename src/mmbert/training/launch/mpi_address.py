"""Address of rank 0 under `mpirun`, which does not provide it, asked through MPI itself."""

import socket

from mmbert.errors import LauncherError


def address_of_rank_zero(rank: int, world_size: int) -> str:
    """Return an address of rank 0's host. Collective over all ranks of `mpirun`.

    MPI is finalized again: training communicates without it, and a process that exits without
    finalizing counts as failed.

    Raises:
        LauncherError: mpi4py is missing, or does not see all ranks.
    """
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: no MPI library
        raise LauncherError(
            "MASTER_ADDR is not set, and mpirun does not provide the address of rank 0 "
            f"(mpi4py, which could ask for it, is not usable: {error})",
            remedy="pass it: mpirun -x MASTER_ADDR=<first host> -x MASTER_PORT=29500 … (deepspeed: "
            "the line MASTER_ADDR=<first host> in .deepspeed_env); or pip install -e '.[mpi]'",
        ) from error
    world = MPI.COMM_WORLD
    if world.size != world_size:
        raise LauncherError(
            f"mpirun has started {world_size} processes, but mpi4py sees {world.size}: it was "
            "built for another MPI",
            remedy="use the mpirun of mpi4py's MPI, or pass mpirun -x MASTER_ADDR=<first host>",
        )
    # A name may not be known on the other nodes; the address by which this host knows itself may
    # be a loopback one.
    address: str = world.bcast(_own_address() if rank == 0 else None, root=0)
    MPI.Finalize()
    return address


def _own_address() -> str:
    """Return this host's first address that is not a loopback one, else its name."""
    name = socket.gethostname()
    try:
        found = socket.getaddrinfo(name, None, family=socket.AF_INET, type=socket.SOCK_STREAM)
    except OSError:
        return name
    addresses = [str(entry[4][0]) for entry in found]
    return next((address for address in addresses if not address.startswith("127.")), name)
