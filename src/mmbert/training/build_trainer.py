"""Putting a trainer together: the model on its grid, the engine, the data, and where to begin."""

import platform
import socket
from pathlib import Path
from typing import Any

import torch

from mmbert.checkpoint.format import Index
from mmbert.checkpoint.resume_check import check_same_run
from mmbert.checkpoint.store import CheckpointStore, step_of
from mmbert.data.loading.packing import row_shapes
from mmbert.data.loading.validation_rows import validation_rows
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
from mmbert.training.metrics.communication_timer import CollectiveTimer
from mmbert.training.metrics.interval_metrics import IntervalMetrics
from mmbert.training.metrics.loggers.base_logger import RunInfo
from mmbert.training.metrics.loggers.console_logger import format_count
from mmbert.training.metrics.loggers.container import LoggerContainer
from mmbert.training.metrics.loss_meter import LossMeter
from mmbert.training.metrics.profiler import Profiler
from mmbert.training.metrics.results import Losses, PhaseResult, Results
from mmbert.training.metrics.step_timer import StepTimer
from mmbert.training.metrics.validation import Validator
from mmbert.training.run_config import RunConfig, RunOptions
from mmbert.training.run_folder import set_up_run_folder
from mmbert.training.train_step import StepRunner
from mmbert.training.trainer import Trainer


def build_trainer(
    options: RunOptions,
    run_config: RunConfig,
    host_group: HostGroup,
    store: Any,
    device: torch.device,
) -> Trainer:
    """Build everything, take over the newest sound checkpoint, and try the largest shapes.

    Args:
        store: the watchdogs' store (`open_store`).

    Raises:
        UserError: the run folder holds another run, a checkpoint is damaged, memory is short.
    """
    recipe, plan, corpus = run_config.recipe, run_config.plan, run_config.corpus
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
        run_config.encoder, grid.tensor, sequence_parallel=recipe.parallel.sequence
    )
    if recipe.initial_checkpoint is None:
        initialize_parameters(model, recipe.seed)
    else:
        load_initial_weights(model, recipe.initial_checkpoint, grid.tensor)
    engine = Engine(model.to(device), recipe, grid, device)
    meter = LossMeter(len(table.names), device)
    step_timer = StepTimer(device)
    watchdog.heartbeat(0, Activity.READ_VALIDATION_ROWS)
    trainer = Trainer(
        recipe=recipe,
        plan=plan,
        corpus=corpus,
        table=table,
        run_folder=run_folder,
        grid=grid,
        host_group=host_group,
        engine=engine,
        store=_checkpoint_store(run_folder, run_config, watchdog),
        validator=Validator(
            validation_rows(
                corpus,
                sources={source.folder for source in recipe.data.sources},
                settings=recipe.evaluation,
                context=recipe.evaluation.context or recipe.phases[0].context,
                row_tokens=recipe.batch.row_tokens,
                masking=recipe.data.masking,
                rank=grid.data.rank,
                ranks=grid.data.size,
            ),
            table,
            grid.data,
            device,
        ),
        loggers=LoggerContainer(active=host_group.is_rank_zero),
        results=_build_results(run_config, table, run_folder, host_group),
        loss_monitor=LossMonitor(recipe.guard),
        skipped=SkippedSteps.read(run_folder),
        stop=stop,
        watchdog=watchdog,
        runner=StepRunner(engine, dropout_seed=recipe.seed, meter=meter, step_timer=step_timer),
        meter=meter,
        interval=IntervalMetrics(
            len(table.names), recipe.model, run_config.encoder.vocab_size, grid, device
        ),
        step_timer=step_timer,
        collective_timer=CollectiveTimer(step_timer),
        profiler=Profiler(
            run_folder / "profile", options.profile_steps if host_group.is_rank_zero else 0
        ),
        peak_flops=_peak_flops(device),
    )
    _resume_or_start(trainer, options, run_config)
    if trainer.results.unigram is None:
        watchdog.heartbeat(trainer.step, Activity.COUNT_UNIGRAMS)
        trainer.results.unigram = Losses.of(trainer.validator.unigram(corpus), table)
    trainer.store.prepare(engine)
    watchdog.heartbeat(trainer.step, Activity.CHECK_MEMORY)
    shapes = row_shapes(component_sizes(corpus, recipe), recipe, table.mixtures)
    peaks = run_memory_check(engine, recipe, shapes, run_config.encoder.vocab_size)
    hosts = list(dict.fromkeys(host_group.gather(socket.gethostname())))
    _log_setup(trainer, hosts, peaks)
    return trainer


def _checkpoint_store(
    run_folder: Path, run_config: RunConfig, watchdog: Watchdog
) -> CheckpointStore:
    settings = run_config.recipe.checkpoint
    return CheckpointStore(
        run_folder / "checkpoints",
        keep_last=settings.keep_last,
        keep_every=settings.keep_every,
        asynchronous=settings.asynchronous,
        alive=watchdog.keep_alive,
    )


def _resume_or_start(trainer: Trainer, options: RunOptions, run_config: RunConfig) -> None:
    """Continue from the newest sound checkpoint, branch from the main run, or start at step 0."""
    newest = trainer.store.latest_valid()
    if newest is not None:
        check_same_run(trainer.recipe, Index.read(newest).state, newest)
        trainer.load(newest)
        what = f"continuing from {newest} at step {trainer.step} of {trainer.plan.steps}"
    elif run_config.branch_step is not None:
        path = _branch_checkpoint(options, run_config.branch_step)
        trainer.verify_checkpoint(path)
        trainer.load(path)
        what = f"variant {options.variant} branches from {path}"
    else:
        what = f"starting {trainer.recipe.name}: {trainer.plan.steps} steps"
    info = RunInfo(
        folder=trainer.run_folder,
        name=trainer.recipe.name,
        first_step=trainer.step,
        steps=trainer.plan.steps,
        phases=tuple(phase.name for phase in trainer.plan.phases),
        largest_languages=tuple(trainer.table.largest_languages()),
    )
    trainer.loggers.open(info, trainer.recipe.logging.loggers)
    trainer.loggers.event("start", trainer.step, what)
    for warning in run_config.warnings:
        trainer.loggers.event("warning", trainer.step, f"warning: {warning}")
    trainer.loggers.text("about/recipe", f"```yaml\n{dump_recipe(trainer.recipe)}```")
    trainer.loggers.text("about/mfu", MFU_FORMULA)


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


def _build_results(
    run_config: RunConfig, table: ComponentTable, run_folder: Path, host_group: HostGroup
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
        for phase, plan in zip(run_config.recipe.phases, run_config.plan.phases, strict=True)
    ]
    results = Results(name=run_config.recipe.name, devices=host_group.world_size, phases=phases)
    if earlier is not None:
        results.merge_earlier(earlier)
    return results


def _peak_flops(device: torch.device) -> float | None:
    """Peak FLOP/s of the device in bfloat16; a CPU has no figure worth comparing with."""
    if device.type != "cuda":
        return None
    return peak_flops(torch.cuda.get_device_name(device))


def _log_setup(trainer: Trainer, hosts: list[str], peaks: dict[str, int]) -> None:
    """What is about to run, for the log's reader."""
    grid, recipe = trainer.grid, trainer.recipe
    device = trainer.engine.device
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    memory = ", ".join(f"{name} {peak / 2**30:.1f} GiB" for name, peak in peaks.items() if peak)
    trainer.loggers.message(
        f"{grid.world_size} × {device.type} ({kind}) on {_describe_nodes(hosts)}: "
        f"{grid.data.size} data ranks × {grid.tensor.size} tensor ranks, "
        f"ZeRO {recipe.parallel.zero_stage}, {recipe.precision}; "
        f"{format_count(parameter_count(trainer.engine))} parameters; "
        f"{len(trainer.table.names)} languages and sources; "
        f"largest batch of every phase fits{f' ({memory})' if memory else ''}"
    )


def _describe_nodes(hosts: list[str]) -> str:
    """How many machines take part, and their names: a launcher may have lost some."""
    names = ", ".join(hosts[:4]) + (", …" if len(hosts) > 4 else "")
    return f"{len(hosts)} machine{'' if len(hosts) == 1 else 's'} ({names})"


def parameter_count(engine: Engine) -> int:
    """Parameters of the whole model, whatever the grid."""
    return sum(torch.Size(entry.full_shape).numel() for entry in engine.specs)
