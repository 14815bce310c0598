"""Rank and rendezvous address from `deepspeed`, `torchrun`, `srun`, `mpirun` or plain `python`.

Each launcher sets its own environment variables. If they are misread, every rank trains alone, so
contradictory variables are refused.
"""

import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mmbert.command_line.environment import given_variables, integer
from mmbert.errors import LauncherError

DEFAULT_PORT = 29500
# Rank variables of launchers that are not understood, or that do not tell the number of ranks.
UNKNOWN_LAUNCHERS = ("PMIX_RANK", "MV2_COMM_WORLD_RANK", "PALS_RANKID", "FLUX_TASK_RANK")
# Slurm reserves step ids from here on, for the batch script or an interactive shell, for example.
FIRST_SPECIAL_STEP = 0xFFFFFFF0


@dataclass(frozen=True)
class RankInfo:
    """Rank of this process, globally and on its node, and the address of rank 0."""

    rank: int
    local_rank: int
    world_size: int
    master_address: str
    master_port: int
    launcher: str

    def environment(self) -> dict[str, str]:
        """Return the variables that `torch.distributed` and DeepSpeed read."""
        return {
            "RANK": str(self.rank),
            "LOCAL_RANK": str(self.local_rank),
            "WORLD_SIZE": str(self.world_size),
            "MASTER_ADDR": self.master_address,
            "MASTER_PORT": str(self.master_port),
        }


def rank_info_from_env(
    environment: Mapping[str, str],
    local_rank_argument: int | None = None,
    *,
    address_from_mpi: Callable[[int, int], str] | None = None,
) -> RankInfo:
    """Determine the rank from the launcher's variables in `environment`.

    Args:
        local_rank_argument: value of `--local_rank`, which DeepSpeed's launcher passes first.
        address_from_mpi: asks for the address of rank 0, given rank and world size, if `mpirun` has
            started several nodes and MASTER_ADDR is not set; see `launch.mpi_address`.

    Raises:
        LauncherError: contradictory variables, or a batch script that requested several Slurm tasks
            and started only one.
    """
    environment = given_variables(environment)
    if "RANK" in environment:
        rank_info = _from_torch_env(environment, local_rank_argument)
    elif "OMPI_COMM_WORLD_RANK" in environment:
        # Before Slurm: in an allocation `mpirun` starts its daemons on other nodes with srun, whose
        # variables the ranks there inherit.
        rank_info = _from_mpi(
            environment,
            ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
            address_from_mpi,
        )
    elif "SLURM_PROCID" in environment and _started_by_srun(environment.get("SLURM_STEP_ID", "")):
        rank_info = _from_slurm(environment)
    elif "PMI_RANK" in environment:
        rank_info = _from_mpi(
            environment, ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"), address_from_mpi
        )
    else:
        _check_for_other_launchers(environment)
        rank_info = RankInfo(0, 0, 1, "127.0.0.1", _free_port(), "python")
    if not 0 <= rank_info.rank < rank_info.world_size:
        raise LauncherError(
            f"rank {rank_info.rank} is out of range for a world size of {rank_info.world_size}",
            remedy="start the program with a single launcher, in a clean environment",
        )
    _check_against_slurm(rank_info, environment)
    return rank_info


def _from_torch_env(environment: Mapping[str, str], local_rank: int | None) -> RankInfo:
    missing = [
        name for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in environment
    ]
    if missing:
        raise LauncherError(
            f"RANK is set in the environment, but {', '.join(missing)} is not",
            remedy="start with `deepspeed` or `torchrun`, or `unset RANK` for a single process",
        )
    if local_rank is None:
        local_rank = integer(environment, "LOCAL_RANK", 0)
    return RankInfo(
        integer(environment, "RANK"),
        local_rank,
        integer(environment, "WORLD_SIZE", minimum=1),
        environment["MASTER_ADDR"],
        _port(environment, 0),
        "environment",
    )


def _started_by_srun(step: str) -> bool:
    """Return whether SLURM_STEP_ID `step` belongs to a task started by `srun`.

    The batch script has no step id, or a reserved one (a number or a word); its other variables
    look like those of a task.
    """
    return step.isascii() and step.isdigit() and int(step) < FIRST_SPECIAL_STEP


def _from_slurm(environment: Mapping[str, str]) -> RankInfo:
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    address = environment.get("MASTER_ADDR") or (first_host(nodes) if nodes else "127.0.0.1")
    # Jobs may share a node, and steps a job. The port depends on both ids, which are the same for
    # all tasks of a step.
    job = integer(environment, "SLURM_JOB_ID", 0, maximum=2**63 - 1)
    offset = 13 * job + int(environment["SLURM_STEP_ID"])
    port = _port(environment, 20000 + offset % 10000)
    return RankInfo(
        integer(environment, "SLURM_PROCID"),
        integer(environment, "SLURM_LOCALID", 0),
        _slurm_tasks(environment),
        address,
        port,
        "srun",
    )


def _from_mpi(
    environment: Mapping[str, str],
    names: tuple[str, str, str],
    address_from_mpi: Callable[[int, int], str] | None,
) -> RankInfo:
    """Return the rank from the variables `names`: rank, world size, local rank."""
    rank_name, size_name, local_name = names
    rank = integer(environment, rank_name)
    world_size = integer(environment, size_name, minimum=1)
    local_rank = integer(environment, local_name, rank)
    address = environment.get("MASTER_ADDR")
    if address is None:
        on_one_node = world_size == integer(environment, "OMPI_COMM_WORLD_LOCAL_SIZE", 0)
        if world_size == 1 or on_one_node:
            address = "127.0.0.1"
        elif address_from_mpi is not None:
            address = address_from_mpi(rank, world_size)
        else:
            raise LauncherError(
                "MASTER_ADDR is not set, and mpirun does not provide the address of rank 0",
                remedy="pass it: mpirun -x MASTER_ADDR=<first host> -x MASTER_PORT=29500 …",
            )
    port = _port(environment, DEFAULT_PORT)
    return RankInfo(rank, local_rank, world_size, address, port, "mpirun")


def _port(environment: Mapping[str, str], default: int) -> int:
    return integer(environment, "MASTER_PORT", default, minimum=1, maximum=65535)


def _slurm_tasks(environment: Mapping[str, str]) -> int:
    ntasks = integer(environment, "SLURM_NTASKS", 1, minimum=1)
    return integer(environment, "SLURM_STEP_NUM_TASKS", ntasks, minimum=1)


def _check_for_other_launchers(environment: Mapping[str, str]) -> None:
    """Refuse to train alone where a launcher that is not understood has started several ranks."""
    found = next((name for name in UNKNOWN_LAUNCHERS if name in environment), None)
    if found is not None:
        raise LauncherError(
            f"{found}={environment[found]} says that a launcher started this process, but not how "
            "many there are: each would train alone",
            remedy="start with `deepspeed`, `torchrun`, `srun` or Open MPI's or MPICH's `mpirun`, "
            f"or `unset {found}` for a single process",
        )


def _check_against_slurm(rank_info: RankInfo, environment: Mapping[str, str]) -> None:
    """Refuse a world size that is not a multiple of the job's Slurm tasks.

    Fewer processes than tasks mean several copies of the same run, or idle nodes. One launcher per
    node (torchrun, deepspeed --no_ssh) starts a multiple of the tasks.
    """
    if "SLURM_PROCID" not in environment:
        return
    if rank_info.launcher == "mpirun" and _started_by_srun(environment.get("SLURM_STEP_ID", "")):
        return  # the tasks are the daemons of mpirun
    tasks = _slurm_tasks(environment)
    _check_not_alone(rank_info, environment, tasks)
    if rank_info.launcher == "srun" and "SLURM_NTASKS" in environment:
        # `srun --ntasks` inside a larger allocation is allowed: the step has its own task count.
        tasks = rank_info.world_size
    if rank_info.world_size % tasks:
        raise LauncherError(
            f"the world size is {rank_info.world_size}, but the Slurm job has {tasks} tasks "
            "(SLURM_NTASKS)",
            remedy="start the tasks with `srun python -m mmbert.pretrain …`, or give the launcher "
            "an absolute --hostfile that lists every node",
        )


def _check_not_alone(rank_info: RankInfo, environment: Mapping[str, str], tasks: int) -> None:
    """Refuse a launcher in each of several tasks that has started the ranks of its own node only.

    Their number may well be a multiple of the tasks: two tasks with two GPUs each, for example.
    """
    if rank_info.launcher != "environment" or tasks == 1:
        return
    # torchrun and deepspeed tell the ranks of a node how many they are.
    local_size = integer(environment, "LOCAL_WORLD_SIZE", integer(environment, "LOCAL_SIZE", 0))
    if local_size == rank_info.world_size:
        raise LauncherError(
            f"the launcher has started {local_size} ranks on this node and knows of no other, but "
            f"the Slurm step has {tasks} tasks (SLURM_NTASKS): every task would train alone",
            remedy="start the ranks with `srun python -m mmbert.pretrain …`, or tell the launcher "
            "of all nodes: torchrun --nnodes, deepspeed --hostfile",
        )


def device_index(local_rank: int, visible_devices: int) -> int:
    """Return the index of this rank's GPU among the visible ones.

    The index is 0 if the launcher makes only one GPU visible to each task.

    Raises:
        LauncherError: the node has more ranks than GPUs.
    """
    if visible_devices == 1:
        return 0
    if local_rank >= visible_devices:
        raise LauncherError(
            f"no GPU for local rank {local_rank}: {visible_devices} are visible on this node",
            remedy="start one process per GPU of a node",
        )
    return local_rank


def first_host(node_list: str) -> str:
    """Return the first host of a Slurm node list: `gpu003` for `gpu[003-004,7],login`.

    Raises:
        LauncherError: the list cannot be parsed.
    """
    match = re.match(r"([^\[\],]+)(?:\[(\d+)[^\]]*\]([^\[\],]*))?", node_list)
    if match is None:
        raise LauncherError(
            f"cannot parse the Slurm node list {node_list!r}",
            remedy="set MASTER_ADDR to the name of the first node",
        )
    prefix, number, suffix = match.groups()
    return f"{prefix}{number or ''}{suffix or ''}"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
