"""Putting a session together: the model on its grid, the engine, the data, and where to begin."""

import platform
import socket
from pathlib import Path
from typing import Any

import torch

from mmbert.checkpoint.format import Index
from mmbert.checkpoint.resume_check import check_same_run
from mmbert.checkpoint.store import CheckpointStore, step_of
from mmbert.data.loading.packing import row_shapes
from mmbert.data.loading.validation_rows import heldout_rows
from mmbert.data.sampling.component_table import ComponentTable
from mmbert.data.sampling.mixture_weights import component_sizes
from mmbert.errors import UserError
from mmbert.hardware import peak_flops
from mmbert.model.flops import MFU_FORMULA
from mmbert.model.initial_weights import load_initial_weights
from mmbert.model.initialization import initialize_parameters
from mmbert.model.modernbert import MaskedLanguageModel
from mmbert.parallel.host_group import HostGroup
from mmbert.parallel.process_grid import build_grid
from mmbert.recipe import dump_recipe
from mmbert.training.engine.engine import Engine
from mmbert.training.fault_tolerance.loss_monitor import LossMonitor, SkippedSteps
from mmbert.training.fault_tolerance.memory_check import run_memory_check
from mmbert.training.fault_tolerance.stop_request import StopRequest
from mmbert.training.fault_tolerance.watchdog import Activity, Watchdog
from mmbert.training.metrics.communication_timer import CommunicationClock
from mmbert.training.metrics.interval_metrics import Interval
from mmbert.training.metrics.loggers import Reporter, format_count
from mmbert.training.metrics.loss_meter import LossMeter
from mmbert.training.metrics.profiler import Profiler
from mmbert.training.metrics.results import Losses, PhaseResult, Results
from mmbert.training.metrics.step_timer import TimeSplit
from mmbert.training.metrics.tensorboard_tags import charts
from mmbert.training.metrics.validation import HeldOut
from mmbert.training.run_config import Prepared, RunOptions
from mmbert.training.run_folder import set_up_run_folder
from mmbert.training.train_step import StepRunner
from mmbert.training.trainer import Session


def open_session(
    options: RunOptions, prepared: Prepared, host_group: HostGroup, store: Any, device: torch.device
) -> Session:
    """Build everything, take over the newest sound checkpoint, and try the largest shapes.

    Args:
        store: the watchdogs' store (`open_store`).

    Raises:
        UserError: the run folder holds another run, a checkpoint is damaged, memory is short.
    """
    recipe, plan, corpus = prepared.recipe, prepared.plan, prepared.corpus
    run_folder = options.run_folder
    host_group.raise_on_all_ranks(
        (lambda: set_up_run_folder(run_folder, recipe, corpus)) if host_group.is_rank_zero else None
    )
    stop = StopRequest(run_folder)
    watchdog = Watchdog(
        rank=host_group.rank,
        world_size=host_group.world_size,
        run_folder=run_folder,
        store=store,
        timeout_seconds=60 * recipe.guard.hang_minutes,
    )
    grid = build_grid(tensor_parallel=recipe.parallel.tensor)
    table = ComponentTable.build(corpus, recipe, plan)
    watchdog.heartbeat(0, Activity.BUILD_MODEL)
    model = MaskedLanguageModel(
        prepared.encoder, grid.tensor, sequence_parallel=recipe.parallel.sequence
    )
    if recipe.initial_checkpoint is None:
        initialize_parameters(model, recipe.seed)
    else:
        load_initial_weights(model, recipe.initial_checkpoint, grid.tensor)
    engine = Engine(model.to(device), recipe, grid, device)
    meter = LossMeter(len(table.names), device)
    clock = TimeSplit(device)
    watchdog.heartbeat(0, Activity.READ_VALIDATION_ROWS)
    session = Session(
        recipe=recipe,
        plan=plan,
        corpus=corpus,
        table=table,
        run_folder=run_folder,
        grid=grid,
        host_group=host_group,
        engine=engine,
        store=_checkpoints(run_folder, prepared, watchdog),
        held_out=HeldOut(
            heldout_rows(corpus, recipe, rank=grid.data.rank, ranks=grid.data.size),
            table,
            grid.data,
            device,
        ),
        reporter=Reporter(run_folder, active=host_group.is_rank_zero),
        results=_results(prepared, table, run_folder, host_group),
        loss_monitor=LossMonitor(recipe.guard),
        skipped=SkippedSteps.read(run_folder),
        stop=stop,
        watchdog=watchdog,
        runner=StepRunner(engine, dropout_seed=recipe.seed, meter=meter, clock=clock),
        meter=meter,
        interval=Interval(
            len(table.names), recipe.model, prepared.encoder.vocab_size, grid, device
        ),
        clock=clock,
        communication=CommunicationClock(clock),
        profiler=Profiler(
            run_folder / "profile", options.profile_steps if host_group.is_rank_zero else 0
        ),
        peak_flops=_peak_of(device),
    )
    session.component_tokens = table.from_names({})
    _begin(session, options, prepared)
    if session.results.unigram is None:
        watchdog.heartbeat(session.step, Activity.COUNT_UNIGRAMS)
        session.results.unigram = Losses.of(session.held_out.unigram(corpus), table)
    session.store.prepare(engine)
    watchdog.heartbeat(session.step, Activity.CHECK_MEMORY)
    shapes = row_shapes(component_sizes(corpus, recipe), recipe, table.mixes)
    peaks = run_memory_check(engine, recipe, shapes, prepared.encoder.vocab_size)
    hosts = list(dict.fromkeys(host_group.gather(socket.gethostname())))
    _announce(session, hosts, peaks)
    return session


def _checkpoints(run_folder: Path, prepared: Prepared, watchdog: Watchdog) -> CheckpointStore:
    settings = prepared.recipe.checkpoint
    return CheckpointStore(
        run_folder / "checkpoints",
        keep_last=settings.keep_last,
        keep_every=settings.keep_every,
        asynchronous=settings.asynchronous,
        alive=watchdog.keep_alive,
    )


def _begin(session: Session, options: RunOptions, prepared: Prepared) -> None:
    """Continue from the newest sound checkpoint, branch from the main run, or start at step 0."""
    newest = session.store.newest_sound()
    if newest is not None:
        check_same_run(session.recipe, Index.read(newest).state, newest)
        session.load(newest)
        what = f"continuing from {newest} at step {session.step} of {session.plan.steps}"
    elif prepared.branch_step is not None:
        path = _branch_checkpoint(options, prepared.branch_step)
        session.require_sound(path)
        session.load(path)
        what = f"variant {options.variant} branches from {path}"
    else:
        what = f"starting {session.recipe.name}: {session.plan.steps} steps"
    languages = session.table.largest_languages()
    session.reporter.open(
        session.step, session.plan.steps, charts([p.name for p in session.plan.phases], languages)
    )
    session.reporter.event("start", session.step, what)
    for warning in prepared.warnings:
        session.reporter.event("warning", session.step, f"warning: {warning}")
    session.reporter.text("about/recipe", f"```yaml\n{dump_recipe(session.recipe)}```")
    session.reporter.text("about/mfu", MFU_FORMULA)


def _branch_checkpoint(options: RunOptions, step: int) -> Path:
    """The main run's checkpoint at the end of the phase that a variant branches from."""
    root = options.output / "checkpoints"
    for path in CheckpointStore(root).list():
        if step_of(path) == step:
            return path
    raise UserError(
        f"{root} holds no checkpoint of step {step}, where variant '{options.variant}' branches",
        remedy="train the main run to the end of that phase first (--stop-after-phase)",
    )


def _results(
    prepared: Prepared, table: ComponentTable, run_folder: Path, host_group: HostGroup
) -> Results:
    """The results so far, or empty ones; rank 0's copy is the one that is written."""
    earlier = Results.read(run_folder)
    phases = [
        PhaseResult(
            name=phase.name,
            context=phase.context,
            mask_ratio=phase.mask_ratio,
            temperature=(
                f"{phase.temperature.start:g}"
                if phase.temperature.start == phase.temperature.end
                else f"{phase.temperature.start:g} → {phase.temperature.end:g}"
            ),
            languages=table.languages_in(plan.index),
            planned_tokens=plan.tokens,
            first_step=plan.first_step,
            end_step=plan.end_step,
        )
        for phase, plan in zip(prepared.recipe.phases, prepared.plan.phases, strict=True)
    ]
    results = Results(name=prepared.recipe.name, devices=host_group.world_size, phases=phases)
    if earlier is not None:
        results.take_over(earlier)
    return results


def _peak_of(device: torch.device) -> float | None:
    """Peak FLOP/s of the device in bfloat16; a CPU has no figure worth comparing with."""
    if device.type != "cuda":
        return None
    return peak_flops(torch.cuda.get_device_name(device))


def _announce(session: Session, hosts: list[str], peaks: dict[str, int]) -> None:
    """What is about to run, for the log's reader."""
    grid, recipe = session.grid, session.recipe
    device = session.engine.device
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    memory = ", ".join(f"{name} {peak / 2**30:.1f} GiB" for name, peak in peaks.items() if peak)
    session.reporter.say(
        f"{grid.world_size} × {device.type} ({kind}) on {_machines(hosts)}: "
        f"{grid.data.size} data ranks × {grid.tensor.size} tensor ranks, "
        f"ZeRO {recipe.parallel.zero_stage}, {recipe.precision}; "
        f"{format_count(parameter_count(session.engine))} parameters; "
        f"{len(session.table.names)} languages and sources; "
        f"largest batch of every phase fits{f' ({memory})' if memory else ''}"
    )


def _machines(hosts: list[str]) -> str:
    """How many machines take part, and their names: a launcher may have lost some."""
    names = ", ".join(hosts[:4]) + (", …" if len(hosts) > 4 else "")
    return f"{len(hosts)} machine{'' if len(hosts) == 1 else 's'} ({names})"


def parameter_count(engine: Engine) -> int:
    """Parameters of the whole model, whatever the grid."""
    return sum(torch.Size(entry.full_shape).numel() for entry in engine.specs)
