"""Real ranks for tests: processes forked from a server that has imported torch and deepspeed once.

A two-rank DeepSpeed test costs about a second this way instead of ten. The rank function must be at
module level of an importable test module; what it returns must be picklable.
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

from tests.support.environment import ON_A_CPU

# What ranks would otherwise import each for itself: those that make an engine, those that run the
# whole job, and all of them the module of their test, and pytest with it.
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
    """The server that ranks are forked from, running. It and its ranks have the environment of a
    CPU's ranks; that of this process stays as it is."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with mock.patch.dict(os.environ, ON_A_CPU):
        forkserver.ensure_running()
    return context


def run_ranks(
    function: Callable[..., Any], world_size: int, *arguments: Any, timeout: float = 120
) -> dict[int, Any]:
    """Run `function(rank, world_size, *arguments)` in `world_size` processes; {rank: result}.

    RuntimeError carries the first failing rank's traceback; TimeoutError if a rank says nothing
    (it was killed, or hangs). No process outlives the call.
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
                raise TimeoutError(f"ranks {silent} said nothing for {timeout} s") from None
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
    # Exiting with a live gloo group aborts the process at random: leave without teardown.
    results.close()
    results.join_thread()
    os._exit(0)


def become_rank(rank: int, world_size: int, port: int) -> None:
    """Let this process be one of `world_size` ranks on this machine, with one core; rank 0 listens
    at `port`."""
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
    """A TCP port that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
