"""Rank and rendezvous address from `deepspeed`, `torchrun`, `srun`, `mpirun` or plain `python`.

Each launcher sets its own environment variables. If they are misread, every rank trains alone, so
contradictory variables are refused.
"""

import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmbert.command_line.environment import given_variables, integer
from mmbert.errors import LauncherError
from mmbert.training.fault_tolerance.process_tree import command_of, launcher_chain

DEFAULT_PORT = 29500
PRETRAIN_MODULE = "mmbert.pretrain"
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
    environment: Mapping[str, str], local_rank_argument: int | None = None
) -> RankInfo:
    """Determine the rank from the launcher's variables in `environment`.

    Args:
        local_rank_argument: value of `--local_rank`, which DeepSpeed's launcher passes first.

    Raises:
        LauncherError: contradictory variables, or a batch script that requested several Slurm tasks
            and started only one.
    """
    environment = given_variables(environment)
    if "RANK" in environment:
        rank_info = _from_torch_env(environment, local_rank_argument)
    elif "SLURM_PROCID" in environment and _started_by_srun(environment.get("SLURM_STEP_ID", "")):
        rank_info = _from_slurm(environment)
    elif "OMPI_COMM_WORLD_RANK" in environment:
        rank_info = _from_mpi(
            environment,
            "OMPI_COMM_WORLD_RANK",
            "OMPI_COMM_WORLD_SIZE",
            "OMPI_COMM_WORLD_LOCAL_RANK",
        )
    elif "PMI_RANK" in environment:
        rank_info = _from_mpi(environment, "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID")
    else:
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
    environment: Mapping[str, str], rank_name: str, size_name: str, local_name: str
) -> RankInfo:
    rank = integer(environment, rank_name)
    world_size = integer(environment, size_name, minimum=1)
    local_rank = integer(environment, local_name, rank)
    address = environment.get("MASTER_ADDR")
    if address is None:
        on_one_node = world_size == integer(environment, "OMPI_COMM_WORLD_LOCAL_SIZE", 0)
        if world_size > 1 and not on_one_node:
            raise LauncherError(
                "MASTER_ADDR is not set, and mpirun does not provide the address of rank 0",
                remedy="pass it: mpirun -x MASTER_ADDR=<first host> -x MASTER_PORT=29500 …",
            )
        address = "127.0.0.1"
    port = _port(environment, DEFAULT_PORT)
    return RankInfo(rank, local_rank, world_size, address, port, "mpirun")


def _port(environment: Mapping[str, str], default: int) -> int:
    return integer(environment, "MASTER_PORT", default, minimum=1, maximum=65535)


def _slurm_tasks(environment: Mapping[str, str]) -> int:
    ntasks = integer(environment, "SLURM_NTASKS", 1, minimum=1)
    return integer(environment, "SLURM_STEP_NUM_TASKS", ntasks, minimum=1)


def _check_against_slurm(rank_info: RankInfo, environment: Mapping[str, str]) -> None:
    """Refuse a world size that is not a multiple of the job's Slurm tasks.

    Fewer processes than tasks mean several copies of the same run, or idle nodes. One launcher per
    node (torchrun, deepspeed --no_ssh) starts a multiple of the tasks.
    """
    if "SLURM_PROCID" not in environment:
        return
    tasks = _slurm_tasks(environment)
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


def check_hostfile() -> None:
    """Refuse to train if the hostfile given to `deepspeed` does not exist.

    `deepspeed` would only log a line and train on this node alone.

    Raises:
        LauncherError: the hostfile is missing.
    """
    for _, launcher in launcher_chain(os.getpid()):
        named = hostfile_argument(command_of(launcher))
        folder = Path(f"/proc/{launcher}/cwd").resolve()
        if named is not None and not (folder / named).is_file():
            raise LauncherError(
                f"hostfile {named} does not exist in {folder}: `deepspeed` has started this "
                "machine only",
                remedy="give --hostfile an absolute path that exists on the machine where "
                "`deepspeed` is started, or omit it to train on one machine",
            )


def hostfile_argument(command: Sequence[str]) -> str | None:
    """Return the hostfile given to a `deepspeed` command before its script or module, or None."""
    for position, word in enumerate(command):
        if position > 1 and (word.endswith(".py") or word == PRETRAIN_MODULE):
            return None  # the rest are the script's own arguments
        option, equals, value = word.partition("=")
        if option in ("-H", "--hostfile"):
            following = command[position + 1] if position + 1 < len(command) else None
            return value if equals else following
    return None


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
