"""Environment variables that must have one value on all nodes: they change results or backends.

Launchers differ in what they hand over. `srun` passes on everything. `deepspeed` passes on
PYTHON…, UCX…, MLFLOW… and MV2…, with GPUs also NCCL…, and what `.deepspeed_env` lists; with pdsh
even the node where it is started gets no more. `mpirun` passes on everything on its own node, and
on others only what `-x` names.
"""

from collections.abc import Mapping, Sequence

from mmbert.command_line.environment import given_variables
from mmbert.errors import LauncherError
from mmbert.training.launch.rank_facts import RankFacts

_EVERYWHERE = (
    "MMBERT_ATTENTION",
    "MMBERT_KERNELS",
    "TRITON_INTERPRET",
    # Debugging adds collectives: with it on some ranks only, all wait.
    "TORCH_DISTRIBUTED_DEBUG",
)
_ON_GPU = (
    "DS_ACCELERATOR",
    "CUBLAS_WORKSPACE_CONFIG",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    # Ranks that disagree about these wait for each other.
    "NCCL_ALGO",
    "NCCL_PROTO",
)
_ON_CPU = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")
# These may differ between nodes, but are set in order to reach them.
_TO_HAND_OVER = ("GLOO_SOCKET_IFNAME",)
COLLECTED = (*_EVERYWHERE, *_ON_GPU, *_ON_CPU, *_TO_HAND_OVER)


def collected(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of `environment` that ranks compare; blank ones count as unset."""
    given = given_variables(environment)
    return {name: given[name] for name in COLLECTED if name in given}


def check_variables(ranks: Sequence[RankFacts]) -> None:
    """Compare the variables of all ranks, and with those of the shell that started `deepspeed`.

    Raises:
        LauncherError: a variable has several values, or was lost on the way.
    """
    by_device = _ON_GPU if ranks[0].device != "cpu" else _ON_CPU
    compared = (*_EVERYWHERE, *by_device)
    for name in compared:
        _check_equal(name, ranks)
    for rank in ranks:
        for name in (*compared, *_TO_HAND_OVER):
            _check_handed_over(name, rank)


def _check_equal(name: str, ranks: Sequence[RankFacts]) -> None:
    hosts_by_value: dict[str | None, list[str]] = {}
    for rank in ranks:
        hosts = hosts_by_value.setdefault(rank.variables.get(name), [])
        if rank.host not in hosts:
            hosts.append(rank.host)
    if len(hosts_by_value) == 1:
        return
    said = "; ".join(
        f"{'not set' if value is None else repr(value)} on {_names(hosts)}"
        for value, hosts in hosts_by_value.items()
    )
    wanted = next(value for value in hosts_by_value if value is not None)
    raise LauncherError(f"{name} differs between nodes: {said}", remedy=_remedy(name, wanted))


def _check_handed_over(name: str, rank: RankFacts) -> None:
    wanted = (rank.shell_variables or {}).get(name)
    here = rank.variables.get(name)
    if wanted is None or wanted == here:
        return
    raise LauncherError(
        f"{name} is {wanted!r} where `deepspeed` was started, but "
        f"{'not set' if here is None else repr(here)} in rank {rank.rank} on {rank.host}: "
        "it is not among the variables that `deepspeed` hands over",
        remedy=_remedy(name, wanted),
    )


def _remedy(name: str, value: str) -> str:
    return (
        f"write the line {name}={value} to the file .deepspeed_env in the folder where `deepspeed` "
        f"is started (mpirun: -x {name}={value}), or unset {name}"
    )


def _names(hosts: Sequence[str]) -> str:
    return ", ".join(hosts[:4]) + (f" and {len(hosts) - 4} more" if len(hosts) > 4 else "")
