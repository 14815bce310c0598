"""Ranks for tests: processes forked from a server that has imported torch and deepspeed.

This way a DeepSpeed test on two ranks takes about a second instead of ten. The rank function must
be at module level of an importable test module; its result must be picklable.
"""

import multiprocessing
import os
import queue
import socket
import traceback
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from multiprocessing.queues import Queue
from typing import Any
from unittest import mock

import pytest

from tests.support.environment import ON_A_CPU

# Modules that every rank would otherwise import itself: for an engine, for the whole job, and for
# the test's own module, which imports pytest.
PRELOADED = [
    "torch",
    "torch._dynamo",
    "deepspeed",
    "deepspeed.runtime.bf16_optimizer",
    "deepspeed.runtime.zero.stage3",
    "mmbert.training.main",
    "pytest",
    "tests.support.ranks",
    "tests.support.frozen",
]


def rank_server() -> ForkServerContext:
    """Start the server that ranks are forked from, with an environment for ranks on a CPU; this
    process keeps its own."""
    if not hasattr(os, "fork"):  # removed by tests/support/without_linux
        pytest.skip("starts ranks, which are forked")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with mock.patch.dict(os.environ, ON_A_CPU):
        forkserver.ensure_running()
    return context


def run_ranks(
    function: Callable[..., Any], world_size: int, *arguments: Any, timeout: float = 120
) -> dict[int, Any]:
    """Run `function(rank, world_size, *arguments)` in `world_size` processes; {rank: result}.

    No process outlives the call.

    Raises:
        RuntimeError: a rank failed; the message is the first traceback.
        TimeoutError: a rank did not finish (killed, or hanging).
    """
    context = rank_server()
    results: Queue[tuple[int, str | None, Any]] = context.Queue()
    port = free_port()
    processes = [
        context.Process(
            target=_rank, args=(function, rank, world_size, port, results, arguments), daemon=True
        )
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    values: dict[int, Any] = {}
    try:
        while len(values) < world_size:
            try:
                rank, error, value = results.get(timeout=timeout)
            except queue.Empty:
                silent = sorted(set(range(world_size)) - set(values))
                raise TimeoutError(f"no result from ranks {silent} within {timeout} s") from None
            if error is not None:
                raise RuntimeError(f"rank {rank} of {world_size} failed:\n{error}")
            values[rank] = value
    finally:
        for process in processes:
            process.join(5 if len(values) == world_size else 0.1)
            if process.is_alive():
                process.kill()
                process.join()
    return values


def _rank(
    function: Callable[..., Any],
    rank: int,
    world_size: int,
    port: int,
    results: "Queue[tuple[int, str | None, Any]]",
    arguments: tuple[Any, ...],
) -> None:
    become_rank(rank, world_size, port)
    try:
        results.put((rank, None, function(rank, world_size, *arguments)))
    except BaseException:
        results.put((rank, traceback.format_exc(), None))
    # Exiting with a live gloo group aborts the process at random: exit without teardown.
    results.close()
    results.join_thread()
    os._exit(0)


def become_rank(rank: int, world_size: int, port: int) -> None:
    """Make this process one of `world_size` ranks on this machine, with one thread."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    import torch

    torch.set_num_threads(1)


def free_port() -> int:
    """Return a TCP port that is free at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
