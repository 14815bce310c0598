"""Exchange of the ranks' facts through the rendezvous store, before they are connected.

Process groups cannot do it: ranks that disagree about their backend wait for each other there.
"""

import json
import os
import socket
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed

from mmbert.errors import LauncherError
from mmbert.training.launch.deepspeed_launch import over_ssh, shell_variables
from mmbert.training.launch.placement import check_devices, check_machines, check_tensor_groups
from mmbert.training.launch.rank_facts import RankFacts
from mmbert.training.launch.variables import check_variables, collected

_PREFIX = "mmbert/launch"
_ACKNOWLEDGE_SECONDS = 10.0


def own_facts(
    *,
    rank: int,
    local_rank: int,
    by_mpirun: bool,
    device: torch.device,
    variables: dict[str, str],
) -> RankFacts:
    """Return the facts of this rank.

    Args:
        by_mpirun: whether `mpirun` started the rank.
        variables: `collected` at the start of the process, before the recipe sets any.
    """
    by_deepspeed = over_ssh()
    shell = shell_variables() if by_deepspeed else None
    return RankFacts(
        rank=rank,
        local_rank=local_rank,
        host=socket.gethostname(),
        machine=f"{_read('/proc/sys/kernel/random/boot_id')} {_link('/proc/self/ns/net')}",
        device=device.type,
        visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
        placed_by_launcher=by_deepspeed or by_mpirun,
        variables=variables,
        shell_variables=None if shell is None else collected(shell),
    )


def agree(
    facts: RankFacts,
    store: Any,
    world_size: int,
    *,
    tensor_parallel: int | None,
    timeout: timedelta,
) -> LauncherError | None:
    """Compare the facts of all ranks. Collective; returns the same verdict on every rank.

    Args:
        store: rendezvous store; rank 0 may host it.
        tensor_parallel: size of the tensor groups; None if the recipe could not be read.
        timeout: how long to wait for a rank that has not come.
    """
    store = distributed.PrefixStore(_PREFIX, store)
    store.set(f"facts/{facts.rank}", facts.model_dump_json())
    if facts.rank == 0:
        verdict = _judge(facts, store, world_size, tensor_parallel, timeout)
        store.set("verdict", json.dumps([verdict.message, verdict.remedy] if verdict else None))
        if verdict is not None:
            _wait_until_read(store, world_size)
        return verdict
    try:
        # Rank 0 may use up the whole time for a rank that does not come.
        store.wait(["verdict"], timeout + timedelta(seconds=30))
        found = json.loads(store.get("verdict"))
    except distributed.DistError as error:
        return LauncherError(
            f"rank {facts.rank} (host {facts.host}) lost rank 0 before training: {error}",
            remedy="see what rank 0 printed",
        )
    if found is None:
        return None
    store.add("read", 1)
    return LauncherError(found[0], remedy=found[1])


def _judge(
    facts: RankFacts, store: Any, world_size: int, tensor_parallel: int | None, timeout: timedelta
) -> LauncherError | None:
    end = time.monotonic() + timeout.total_seconds()
    keys = [f"facts/{rank}" for rank in range(world_size)]
    for key in keys:
        try:
            store.wait([key], timedelta(seconds=max(0.01, end - time.monotonic())))
        except distributed.DistError:
            return _describe_missing(facts, store, world_size, timeout)
    ranks = [RankFacts.model_validate_json(store.get(key)) for key in keys]
    try:
        check_machines(ranks)
        check_devices(ranks)
        check_variables(ranks)
        if tensor_parallel is not None:
            check_tensor_groups(ranks, tensor_parallel)
    except LauncherError as error:
        return error
    return None


def _describe_missing(
    facts: RankFacts, store: Any, world_size: int, timeout: timedelta
) -> LauncherError:
    missing = [rank for rank in range(world_size) if not store.check([f"facts/{rank}"])]
    present = [rank for rank in range(world_size) if rank not in missing]
    hosts = {
        RankFacts.model_validate_json(store.get(f"facts/{rank}")).host for rank in present[:1024]
    }
    shown = ", ".join(map(str, missing[:16])) + (", …" if len(missing) > 16 else "")
    return LauncherError(
        f"{len(missing)} of {world_size} ranks did not come within "
        f"{timeout.total_seconds() / 60:g} minutes: {shown}; those on {', '.join(sorted(hosts))} "
        "did",
        remedy="see what the missing ranks printed, and whether their nodes can reach "
        f"{facts.host}",
    )


def _wait_until_read(store: Any, world_size: int) -> None:
    """Wait for the other ranks: the store ends with this process."""
    end = time.monotonic() + _ACKNOWLEDGE_SECONDS
    while store.add("read", 0) < world_size - 1 and time.monotonic() < end:
        time.sleep(0.05)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
