"""The training job from its options to its exit status; called by `mmbert.pretrain`.

Errors in the user's input are detected before training, on any rank, and printed once by rank 0.
The process ends with `os._exit`, because torch's gloo threads may abort it on a normal exit.
"""

import os
import sys
import traceback
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, NoReturn

import torch
import torch.distributed as distributed

from mmbert.data.shards.corpus import open_corpus, read_corpus_files
from mmbert.errors import (
    EXIT_FAILURE,
    EXIT_SAVED_START_AGAIN,
    EXIT_USER_ERROR,
    UserError,
)
from mmbert.files import lacks_space
from mmbert.journals.rank_failures import report_failure
from mmbert.parallel.host_group import HostGroup
from mmbert.recipe import Recipe
from mmbert.training.build_trainer import build_trainer
from mmbert.training.determinism import set_environment, set_up_device
from mmbert.training.fault_tolerance.hangs.guarded_store import check_interval, open_store
from mmbert.training.fault_tolerance.stop_request import STOP_FILE
from mmbert.training.launch.agreement import agree as launches_agree
from mmbert.training.launch.agreement import own_facts
from mmbert.training.launch.deepspeed_launch import check_hostfile
from mmbert.training.launch.errors_once import LAST_ERROR_SECONDS, print_once, refuse
from mmbert.training.launch.rendezvous import check_address, leave_together, open_rendezvous
from mmbert.training.launch.variables import collected
from mmbert.training.launcher_env import RankInfo, device_index
from mmbert.training.loop import ExitReason, train
from mmbert.training.metrics.results import print_summary
from mmbert.training.nodes.agreement import Facts, agree, node_facts
from mmbert.training.nodes.node_map import NodeMap
from mmbert.training.nodes.versions import compared_versions
from mmbert.training.run_config import (
    ResolvedRecipe,
    RunConfig,
    RunOptions,
    configure_run,
    resolve_recipe,
)
from mmbert.training.run_folder import owned_run_folder
from mmbert.training.trainer import Trainer
from mmbert_kernels import keep_freed_memory

# From here on gloo connects two ranks when they first send to each other. By default it connects
# all at the start: of 1,024 ranks each has a socket for each in each group, and reads 8 MB of
# addresses from rank 0 (tests/benchmarks/bench_messages.py).
MANY_RANKS = 129
# Hang timeout if no recipe, which sets it, could be read.
STARTUP_TIMEOUT = timedelta(minutes=10)


def pretrain(options: RunOptions, rank_info: RankInfo) -> int:
    """Initialize torch.distributed, train and return the exit status.

    Once the ranks are connected, a UserError is printed instead of raised.
    """
    variables = collected(os.environ)
    os.environ.update(rank_info.environment())
    check_address(rank_info.master_address, rank_info.master_port)
    resolved, error = _try_to_resolve(options, rank_info)
    hang = timedelta(minutes=resolved.recipe.guard.hang_minutes) if resolved else STARTUP_TIMEOUT
    device = _choose_device(rank_info)
    if resolved is not None:
        error = _check_device(resolved.recipe, device)
    if rank_info.world_size >= MANY_RANKS:
        os.environ.setdefault("TORCH_GLOO_LAZY_INIT", "1")
    # Longer than the hang timeout: the watchdog reports the stragglers before a collective times
    # out.
    timeout = 1.5 * hang
    facts = own_facts(
        rank=rank_info.rank,
        local_rank=rank_info.local_rank,
        by_mpirun=rank_info.launcher == "mpirun",
        device=device,
        variables=variables,
    )
    rendezvous = open_rendezvous(
        rank_info.master_address,
        rank_info.master_port,
        rank=rank_info.rank,
        world_size=rank_info.world_size,
        timeout=timeout,
    )
    tensor = resolved.recipe.parallel.tensor if resolved else None
    disagreement = launches_agree(
        facts, rendezvous, rank_info.world_size, tensor_parallel=tensor, timeout=timeout
    )
    if disagreement is not None:
        return refuse([disagreement], rendezvous, rank_info.rank, rank_info.world_size)
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=distributed.PrefixStore("default_pg", rendezvous),
        rank=rank_info.rank,
        world_size=rank_info.world_size,
        timeout=timeout,
        device_id=device if device.type == "cuda" else None,
    )
    host_group = HostGroup.build(timeout)
    nodes = NodeMap.discover(host_group, timeout)
    if device.type == "cpu":
        _set_thread_count(nodes)
        keep_freed_memory()
    corpus, run_config = None, None
    try:
        # Read by one rank of each node, also where another has found the recipe wrong.
        files = nodes.own.from_rank_zero(partial(read_corpus_files, options.data))
        if resolved is not None:
            corpus = open_corpus(options.data, files)
            run_config = configure_run(options, resolved, corpus)
    except UserError as user_error:
        error = error or user_error
    on_node: Facts = {}
    if nodes.is_first_rank and len(nodes.names) > 1:
        on_node = node_facts(compared_versions(), resolved.recipe if resolved else None, corpus)
    agreement = agree(on_node, nodes, host_group)
    errors = host_group.gather(error)
    if error is not None:
        report_failure(rank_info.rank, error)
    if agreement.error is not None or any(error is not None for error in errors):
        of_nodes = [] if agreement.error is None else [agreement.error]
        return refuse(errors, rendezvous, rank_info.rank, rank_info.world_size, of_nodes=of_nodes)
    assert run_config is not None
    run_config = replace(run_config, warnings=(*run_config.warnings, *agreement.warnings))
    store = open_store(
        rank_info.master_address,
        rank_info.rank,
        rank_info.world_size,
        host_group.broadcast,
        patience=check_interval(hang.total_seconds()),
    )
    try:
        status = _run(options, run_config, nodes, host_group, store, device)
        leave_together(rendezvous, rank_info.rank, rank_info.world_size, seconds=LAST_ERROR_SECONDS)
        return status
    except UserError as user_error:
        report_failure(rank_info.rank, user_error)
        print_once(f"error: {user_error}\n", host_group, store)
        return EXIT_USER_ERROR


def _run(
    options: RunOptions,
    run_config: RunConfig,
    nodes: NodeMap,
    host_group: HostGroup,
    store: Any,
    device: torch.device,
) -> int:
    with owned_run_folder(run_config.folder, host_group, take_over=options.take_over) as owner:
        trainer = build_trainer(options, run_config, nodes, host_group, store, device, owner)
        exit_reason = _train(trainer, options, host_group)
    host_group.barrier()
    trainer.ranks.watchdog.close()
    return EXIT_SAVED_START_AGAIN if exit_reason is ExitReason.STOPPED else 0


def _train(trainer: Trainer, options: RunOptions, host_group: HostGroup) -> ExitReason:
    """Train, write what is left and close the trainer."""
    try:
        exit_reason = train(trainer, stop_after_phase=options.stop_after_phase)
        trainer.finish_saving()
        trainer.metrics.write_results()
        failure = host_group.broadcast(trainer.metrics.loggers.failure)
        if failure is not None:
            raise failure
        if host_group.is_rank_zero:
            if exit_reason is ExitReason.STOPPED:
                trainer.metrics.loggers.attempt(STOP_FILE, trainer.stop.clear_stop_file)
            else:
                print_summary(trainer.metrics.results, trainer.run.folder)
    finally:
        trainer.close()
    return exit_reason


def _choose_device(rank_info: RankInfo) -> torch.device:
    """Return this rank's GPU, or the CPU if there is none or DS_ACCELERATOR=cpu is set."""
    if not torch.cuda.is_available() or os.environ.get("DS_ACCELERATOR") == "cpu":
        return torch.device("cpu")
    number = device_index(rank_info.local_rank, torch.cuda.device_count())
    os.environ["LOCAL_RANK"] = str(number)  # DeepSpeed takes its device from here
    device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    return device


def _set_thread_count(nodes: NodeMap) -> None:
    """Divide the node's processors among its ranks, unless OMP_NUM_THREADS is set."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // nodes.own.world_size))


def _try_to_resolve(
    options: RunOptions, rank_info: RankInfo
) -> tuple[ResolvedRecipe | None, UserError | None]:
    try:
        check_hostfile()
        resolved = resolve_recipe(options, rank_info.world_size)
        set_environment(resolved.recipe)
        return resolved, None
    except UserError as error:
        return None, error


def _check_device(recipe: Recipe, device: torch.device) -> UserError | None:
    """Return why this rank's device cannot run the recipe, or None."""
    try:
        set_up_device(recipe, device)
    except UserError as error:
        return error
    return None


def _is_of_peer(error: BaseException) -> bool:
    """Return whether the connection to another rank failed, so that the cause is elsewhere.

    Errors of gloo's collectives are plain RuntimeErrors that begin with gloo's source file.
    """
    return isinstance(error, distributed.DistError) or "gloo/transport" in str(error)


def run_and_exit(options: RunOptions, rank_info: RankInfo) -> NoReturn:
    """Run `pretrain` and exit the process with its status."""
    try:
        status = pretrain(options, rank_info)
    except UserError as error:  # before the ranks were connected
        report_failure(rank_info.rank, error)
        sys.stderr.write(f"error (rank {rank_info.rank}): {error}\n")
        status = EXIT_USER_ERROR
    except BaseException as error:
        report_failure(rank_info.rank, error, of_peer=_is_of_peer(error))
        sys.stderr.write(f"rank {rank_info.rank} of {rank_info.world_size} failed:\n")
        traceback.print_exc()
        status = EXIT_FAILURE
        if lacks_space(error):
            sys.stderr.write(
                f"error (rank {rank_info.rank}): no space left on a disk\n  → free space (or raise "
                "the quota), then run the same command again: it resumes from the newest valid "
                "checkpoint\n"
            )
            status = EXIT_USER_ERROR
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
