"""The main job from its options to its exit status; called by `mmbert.pretrain`.

What is wrong with the user's input is found before anything starts and said once, by rank 0,
whichever rank finds it. The process leaves with `os._exit`, because torch's gloo threads may abort
one that returns in the ordinary way.
"""

import os
import socket
import sys
import time
import traceback
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed as distributed

from mmbert.errors import EXIT_SAVED_START_AGAIN, EXIT_USER_ERROR, UserError
from mmbert.parallel.host_group import HostGroup
from mmbert.training.build_trainer import build_trainer
from mmbert.training.determinism import set_environment, set_up_device
from mmbert.training.fault_tolerance.watchdog import open_store
from mmbert.training.launcher_env import RankInfo, check_hostfile, device_index
from mmbert.training.loop import ExitReason, train
from mmbert.training.metrics.results import print_summary
from mmbert.training.run_config import RunConfig, RunOptions, resolve_run_config
from mmbert_kernels import keep_freed_memory

EXIT_FAILURE = 1
LAST_ERROR_SECONDS = 5.0
# Before the recipe is read its own timeout is not known.
STARTUP_TIMEOUT = timedelta(minutes=10)


def pretrain(options: RunOptions, rank_info: RankInfo) -> int:
    """Train as `options` say; the exit status. Starts and ends torch.distributed.

    Raises nothing that the user should see a traceback of: a UserError is printed here.
    """
    os.environ.update(rank_info.environment())
    run_config, error = _try_to_resolve(options, rank_info)
    hang = (
        timedelta(minutes=run_config.recipe.guard.hang_minutes) if run_config else STARTUP_TIMEOUT
    )
    device = _choose_device(rank_info)
    if run_config is not None:
        error = _check_device(run_config, device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    # Twice the hang timeout: the watchdog names the culprit before a collective gives up.
    try:
        distributed.init_process_group(
            backend,
            rank=rank_info.rank,
            world_size=rank_info.world_size,
            timeout=2 * hang,
            device_id=device if device.type == "cuda" else None,
        )
    except distributed.DistNetworkError as network_error:
        if "EADDRINUSE" not in str(network_error):
            raise
        raise UserError(
            f"port {rank_info.master_port} of {rank_info.master_address}, where the ranks were to "
            "meet, is taken (by another run?)",
            remedy="choose another one: deepspeed --master_port N …; for srun, mpirun and torchrun "
            "set MASTER_PORT=N",
        ) from network_error
    host_group = HostGroup.build(2 * hang)
    if device.type == "cpu":
        _set_thread_count(host_group)
        keep_freed_memory()
    errors = host_group.gather(error)
    if any(error is not None for error in errors):
        if host_group.is_rank_zero:
            _print_errors(errors)
        return EXIT_USER_ERROR
    assert run_config is not None
    store = open_store(
        rank_info.master_address, rank_info.rank, rank_info.world_size, host_group.broadcast
    )
    try:
        return _run(options, run_config, host_group, store, device)
    except UserError as user_error:
        _print_once(f"error: {user_error}\n", host_group, store)
        return EXIT_USER_ERROR


def _run(
    options: RunOptions,
    run_config: RunConfig,
    host_group: HostGroup,
    store: Any,
    device: torch.device,
) -> int:
    trainer = build_trainer(options, run_config, host_group, store, device)
    try:
        exit_reason = train(trainer, stop_after_phase=options.stop_after_phase)
        trainer.finish_saving()
        trainer.write_results()
        failure = host_group.broadcast(trainer.loggers.failure)
        if failure is not None:
            raise failure
        if host_group.is_rank_zero:
            if exit_reason is ExitReason.STOPPED:
                trainer.stop.clear_stop_file()
            else:
                print_summary(trainer.results, trainer.run_folder)
    finally:
        trainer.close()
    host_group.barrier()
    trainer.watchdog.close()
    return EXIT_SAVED_START_AGAIN if exit_reason is ExitReason.STOPPED else 0


def _choose_device(rank_info: RankInfo) -> torch.device:
    """This rank's GPU; the CPU where there is none, or with DS_ACCELERATOR=cpu."""
    if not torch.cuda.is_available() or os.environ.get("DS_ACCELERATOR") == "cpu":
        return torch.device("cpu")
    number = device_index(rank_info.local_rank, torch.cuda.device_count())
    os.environ["LOCAL_RANK"] = str(number)  # where DeepSpeed looks for its device
    device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    return device


def _set_thread_count(host_group: HostGroup) -> None:
    """Divide the machine's processors among its ranks, unless the user has."""
    if "OMP_NUM_THREADS" in os.environ:
        return
    neighbours = host_group.gather(socket.gethostname()).count(socket.gethostname())
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // neighbours))


def _print_once(text: str, host_group: HostGroup, store: Any) -> None:
    """Every rank may have met the same mistake, or one alone: the first to come says it."""
    try:
        if store is None or store.add("said", 1) == 1:
            sys.stderr.write(text)
            sys.stderr.flush()
    except distributed.DistNetworkError:
        return  # rank 0, which keeps the store, has said something and left
    if host_group.is_rank_zero and store is not None:
        # The store goes with this process: let the others ask it first.
        deadline = time.monotonic() + LAST_ERROR_SECONDS
        while store.add("said", 0) < host_group.world_size and time.monotonic() < deadline:
            time.sleep(0.05)


def _try_to_resolve(
    options: RunOptions, rank_info: RankInfo
) -> tuple[RunConfig | None, UserError | None]:
    try:
        check_hostfile()
        run_config = resolve_run_config(options, rank_info.world_size)
        set_environment(run_config.recipe)
        return run_config, None
    except UserError as error:
        return None, error


def _check_device(run_config: RunConfig, device: torch.device) -> UserError | None:
    """What this rank's device cannot do for the recipe."""
    try:
        set_up_device(run_config.recipe, device)
    except UserError as error:
        return error
    return None


def _print_errors(errors: list[UserError | None]) -> None:
    """Each different mistake once, with the ranks that met it if it was not all of them."""
    told: dict[str, list[int]] = {}
    for rank, error in enumerate(errors):
        if error is not None:
            told.setdefault(str(error), []).append(rank)
    for text, ranks in told.items():
        where = "" if len(ranks) == len(errors) else f" (ranks {ranks})"
        sys.stderr.write(f"error{where}: {text}\n")


def run_and_exit(options: RunOptions, rank_info: RankInfo) -> NoReturn:
    """`pretrain`, then leave the process with its status."""
    try:
        status = pretrain(options, rank_info)
    except UserError as error:  # before the ranks could talk to each other
        sys.stderr.write(f"error (rank {rank_info.rank}): {error}\n")
        status = EXIT_USER_ERROR
    except BaseException:
        sys.stderr.write(f"rank {rank_info.rank} of {rank_info.world_size} failed:\n")
        traceback.print_exc()
        status = EXIT_FAILURE
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
