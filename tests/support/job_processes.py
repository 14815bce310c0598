"""Ranks of the training job as processes that a test may kill, stop and restart.

They are forked from a server that has loaded torch and deepspeed, so a start takes a second.
Launchers are tested separately, with the real `deepspeed`.
"""

import os
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from mmbert.journals.rank_failures import FOLDER_VARIABLE
from mmbert.training.run_config import RunOptions
from tests.support.ranks import become_rank, free_port, rank_server


def start_ranks(
    options: RunOptions,
    *,
    world_size: int = 2,
    before: Callable[..., None] | None = None,
    arguments: tuple[Any, ...] = (),
) -> list[BaseProcess]:
    """Start the job; `before(rank, *arguments)` runs in every rank first, to inject a fault.

    The output of the ranks goes to `output`.log.
    """
    context = rank_server()
    port = free_port()
    processes: list[BaseProcess] = [
        context.Process(
            target=_rank, args=(rank, world_size, port, options, before, arguments), daemon=True
        )
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    return processes


def exit_statuses(processes: list[BaseProcess], timeout: float = 100) -> list[int | None]:
    """Return the exit statuses of all (negative: signal; None: killed after `timeout`)."""
    deadline = time.monotonic() + timeout
    statuses: list[int | None] = []
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        statuses.append(process.exitcode)
        if process.is_alive():
            process.kill()
            process.join()
    return statuses


def run_to_the_end(options: RunOptions, *, world_size: int = 2, **more: Any) -> list[int | None]:
    """Start the job, wait, and return the exit statuses."""
    return exit_statuses(start_ranks(options, world_size=world_size, **more))


def output_of(options: RunOptions) -> str:
    """Return the output of the ranks."""
    return _log_path(options).read_text()


def failures_of(options: RunOptions) -> Path:
    """Return the folder that failing ranks report in."""
    return options.output.with_name(options.output.name + ".failures")


def wait_for(condition: Callable[[], bool], timeout: float = 60) -> None:
    """Poll until `condition`; AssertionError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.01)


def _log_path(options: RunOptions) -> Path:
    return options.output.with_name(options.output.name + ".log")


def _rank(
    rank: int,
    world_size: int,
    port: int,
    options: RunOptions,
    before: Callable[..., None] | None,
    arguments: tuple[Any, ...],
) -> None:
    become_rank(rank, world_size, port)
    from mmbert.training.launcher_env import rank_info_from_env
    from mmbert.training.main import run_and_exit

    os.environ[FOLDER_VARIABLE] = str(failures_of(options))
    log = os.open(_log_path(options), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    if before is not None:
        before(rank, *arguments)
    run_and_exit(options, rank_info_from_env(os.environ))
