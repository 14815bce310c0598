"""Construction of the trainer: model, engine, data, metrics, and the step to start from."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from mmbert.checkpoint.format import Index
from mmbert.checkpoint.resume_check import check_optimizer, check_same_run
from mmbert.checkpoint.store import CheckpointStore, step_of
from mmbert.data.loading.packing import row_shapes
from mmbert.data.loading.validation_rows import validation_rows
from mmbert.data.sampling.mixture_weights import component_sizes
from mmbert.data.shards.file_sizes import check_file_sizes
from mmbert.errors import CheckpointError
from mmbert.model.initial_weights import load_initial_weights
from mmbert.model.initialization import initialize_parameters
from mmbert.model.modernbert import MaskedLanguageModel
from mmbert.ownership import Unowned
from mmbert.parallel.host_group import HostGroup
from mmbert.parallel.process_grid import ProcessGrid, build_grid
from mmbert.recipe import Objective
from mmbert.training.engine.engine import Engine
from mmbert.training.fault_tolerance.hangs.section_limits import FILE_NAME, SectionLimits
from mmbert.training.fault_tolerance.hangs.watchdog import Activity, Watchdog
from mmbert.training.fault_tolerance.loss_monitor import LossMonitor, SkippedSteps
from mmbert.training.fault_tolerance.memory_check import run_memory_check
from mmbert.training.fault_tolerance.stop_request import StopRequest
from mmbert.training.metrics.results import Losses, PhaseResult, Results
from mmbert.training.metrics.validation import Validator
from mmbert.training.metrics_processor import MetricsProcessor
from mmbert.training.nodes.link_report import check_links
from mmbert.training.nodes.local_shards import copy_shards
from mmbert.training.nodes.node_map import NodeMap
from mmbert.training.nodes.start_log import log_nodes
from mmbert.training.run_config import RunConfig, RunOptions
from mmbert.training.run_folder import set_up_run_folder
from mmbert.training.train_step import StepRunner
from mmbert.training.trainer import Trainer
from mmbert.training.trainer_parts.checkpointing import Checkpoints
from mmbert.training.trainer_parts.data_feed import DataFeed
from mmbert.training.trainer_parts.ranks import Ranks
from mmbert.training.trainer_parts.repetition import Repetitions
from mmbert.training.trainer_parts.rollbacks import Rollbacks
from mmbert.training.trainer_parts.start_details import log_setup, open_loggers


def build_trainer(
    options: RunOptions,
    run: RunConfig,
    nodes: NodeMap,
    host_group: HostGroup,
    store: Any,
    device: torch.device,
    owner: Unowned,
) -> Trainer:
    """Build all parts, resume from the newest valid checkpoint, and run the memory check.

    Args:
        nodes: nodes of all ranks.
        store: key-value store of the watchdogs (see `open_store`).
        owner: ownership of the run folder.

    Raises:
        UserError: the run folder belongs to another run, a checkpoint is damaged, or the device
            runs out of memory.
    """
    recipe = run.recipe
    host_group.raise_on_all_ranks(lambda: _check_and_set_up(run, host_group))
    stop = StopRequest(run.folder)
    parallel, seconds = recipe.parallel, 60 * recipe.guard.hang_minutes
    grid_name = f"{host_group.world_size} {device.type}, tensor {parallel.tensor}"
    limits = SectionLimits.shared(
        *(seconds, run.folder / FILE_NAME, f"{grid_name}, ZeRO {parallel.zero_stage}"),
        host_group.from_rank_zero,
    )
    watchdog = Watchdog(
        rank=host_group.rank,
        world_size=host_group.world_size,
        run_folder=run.folder,
        store=store,
        timeout_seconds=seconds,
        limits=limits,
    )
    grid = build_grid(
        tensor_parallel=recipe.parallel.tensor,
        device=device,
        # As that of the default group; NCCL's own of 10 minutes may be below the hang timeout.
        timeout=1.5 * timedelta(minutes=recipe.guard.hang_minutes),
    )
    ranks = Ranks(grid, host_group, watchdog, owner)
    ranks.heartbeat(0, Activity.COPY_SHARDS)
    local = copy_shards(run.corpus, recipe, nodes, host_group, watchdog.keep_alive)
    if local is not None:
        run = replace(run, corpus=local.corpus)
    ranks.heartbeat(0, Activity.CHECK_LINKS)
    links = check_links(recipe, run.encoder, grid, device, nodes, host_group)
    ranks.heartbeat(0, Activity.BUILD_MODEL)
    engine = Engine(_build_model(run, ranks.grid).to(device), recipe, ranks.grid, device)
    ranks.heartbeat(0, Activity.READ_VALIDATION_ROWS)
    validators = _build_validators(run, ranks, device)
    validator = validators["masked"]
    results = _build_results(run, host_group.world_size)
    metrics = MetricsProcessor(run, ranks, engine, validators, results, options.profile_steps)
    runner = StepRunner(
        engine, dropout_seed=recipe.seed, meter=metrics.meter, step_timer=metrics.step_timer
    )
    checkpoints, skipped = _build_checkpoints(run, ranks), SkippedSteps.read(run.folder)
    repetitions = Repetitions(run, ranks, runner, metrics.loggers, device)
    trainer = Trainer(
        run=run,
        ranks=ranks,
        engine=engine,
        runner=runner,
        data=DataFeed(run, ranks, on_gpu=device.type == "cuda"),
        checkpoints=checkpoints,
        metrics=metrics,
        loss_monitor=LossMonitor(recipe.guard),
        skipped=skipped,
        repetitions=repetitions,
        rollbacks=Rollbacks(
            recipe.guard, ranks, checkpoints, skipped, repetitions, metrics.loggers
        ),
        stop=stop,
    )
    start = _resume_or_start(trainer, options)
    open_loggers(
        *(run, engine, metrics.loggers, trainer.step, start),
        hosts=nodes.names,
        warnings=trainer.data.warnings,
    )
    log_nodes(metrics.loggers, trainer.step, run.folder, local, links)
    if results.unigram is None:
        trainer.heartbeat(Activity.COUNT_UNIGRAMS)
        results.unigram = Losses.of(validator.unigram(run.corpus, host_group), run.table)
    trainer.checkpoints.store.prepare(engine)
    trainer.heartbeat(Activity.CHECK_MEMORY)
    shapes = row_shapes(component_sizes(run.corpus, recipe), recipe, run.table.mixtures)
    peaks = run_memory_check(engine, recipe, shapes, run.encoder.vocab_size)
    _save_imported(trainer)
    log_setup(run, engine, metrics.loggers, nodes.names, peaks)
    if owner.taken_from is not None:
        metrics.loggers.message(f"took over the run folder: {owner.taken_from}")
    return trainer


def _check_and_set_up(run: RunConfig, host_group: HostGroup) -> None:
    """Compare this rank's share of the shard files with their manifests; set up the run folder."""
    recipe, rank, ranks = run.recipe, host_group.rank, host_group.world_size
    sources = {source.folder for source in recipe.data.sources}
    check_file_sizes(run.corpus, sources, recipe.longest_context, rank=rank, ranks=ranks)
    if host_group.is_rank_zero:
        set_up_run_folder(run.folder, run.recipe, run.corpus, resumes=run.resumes)


def _build_model(run: RunConfig, grid: ProcessGrid) -> MaskedLanguageModel:
    """Build this rank's part of the model, with its initial weights."""
    recipe = run.recipe
    model = MaskedLanguageModel(
        run.encoder, grid.tensor, sequence_parallel=recipe.parallel.sequence
    )
    if recipe.initial_checkpoint is None or run.resumes:  # a checkpoint is loaded later
        initialize_parameters(model, recipe.seed)
    else:
        load_initial_weights(model, recipe.initial_checkpoint, grid.tensor)
    return model


def _build_validators(
    run: RunConfig, ranks: Ranks, device: torch.device
) -> dict[Objective, Validator]:
    """Build the validator of masked tokens, and that of next tokens if any phase is causal."""
    recipe, grid = run.recipe, ranks.grid
    objectives: list[Objective] = ["masked"]
    if any(phase.causal for phase in recipe.phases):
        objectives.append("causal")
    validators: dict[Objective, Validator] = {}
    for objective in objectives:
        causal = objective == "causal"
        rows = validation_rows(
            run.corpus,
            sources={source.folder for source in recipe.data.sources},
            settings=recipe.evaluation,
            context=recipe.evaluation.context or recipe.phases[0].context,
            row_tokens=recipe.batch.row_tokens,
            masking=recipe.data.masking,
            causal=causal,
            rank=grid.data.rank,
            ranks=grid.data.size,
            share=ranks.host_group.share,
        )
        validators[objective] = Validator(rows, run.table, grid.data, device, causal=causal)
    return validators


def _build_checkpoints(run: RunConfig, ranks: Ranks) -> Checkpoints:
    settings = run.recipe.checkpoint
    store = CheckpointStore(
        run.folder / "checkpoints",
        keep_last=settings.keep_last,
        keep_every=settings.keep_every,
        asynchronous=settings.asynchronous,
        alive=ranks.watchdog.keep_alive,
        owner=ranks.owner,
    )
    return Checkpoints(store, settings, ranks)


def _resume_or_start(trainer: Trainer, options: RunOptions) -> str:
    """Resume from the newest valid checkpoint, branch from the main run, continue from an imported
    training state, or start at step 0.

    Returns:
        Description of the start, for the log.
    """
    run = trainer.run
    newest = trainer.checkpoints.store.latest_valid()
    if newest is not None:
        state = Index.read(newest).state
        check_same_run(run.recipe, state, newest)
        trainer.data.check(state)
        trainer.load(newest)
        return f"continuing from {newest} at step {trainer.step} of {run.plan.steps}"
    if run.branch_step is not None:
        path = _branch_checkpoint(options, run.branch_step)
        trainer.verify_checkpoint(path)
        state = Index.read(path).state
        check_optimizer(run.recipe, state, path)
        trainer.data.check(state)
        trainer.load(path)
        return f"variant {options.variant} branches from {path}"
    if run.imported is not None:
        trainer.start_from(run.imported)
        return run.imported.description
    return f"starting {run.recipe.name}: {run.plan.steps} steps"


def _save_imported(trainer: Trainer) -> None:
    """Save the imported state as a checkpoint, so that the run needs nothing outside its folder.

    It is permanent: the data order before the first of the run's own checkpoints starts from it.
    """
    run = trainer.run
    if run.imported is not None and trainer.checkpoints.saved_step is None:
        ends = {phase.end_step for phase in run.plan.phases}
        trainer.save("imported state", phase_end=trainer.step in ends, permanent=True)


def _branch_checkpoint(options: RunOptions, step: int) -> Path:
    """Return the main run's checkpoint at the end of the phase that a variant branches from."""
    root = options.output / "checkpoints"
    for path in CheckpointStore(root).list():
        if step_of(path) == step:
            return path
    raise CheckpointError(
        f"{root} holds no checkpoint of step {step}, where variant '{options.variant}' branches",
        remedy="train the main run to the end of that phase first (--stop-after-phase)",
    )


def _build_results(run: RunConfig, devices: int) -> Results:
    """Build the results of the run's phases, including those of an earlier start, if any."""
    earlier = Results.read(run.folder)
    phases = [
        PhaseResult(
            name=phase.name,
            context=phase.context,
            objective=phase.objective,
            mask_ratio=None if phase.causal else phase.predicted_fraction,
            predicted_share=phase.predicted_share,
            temperature=(
                f"{phase.temperature.start:g}"
                if phase.temperature.start == phase.temperature.end
                else f"{phase.temperature.start:g} → {phase.temperature.end:g}"
            ),
            languages=run.table.languages_in(plan.index),
            planned_tokens=plan.tokens,
            first_step=plan.first_step,
            end_step=plan.end_step,
        )
        for phase, plan in zip(run.recipe.phases, run.plan.phases, strict=True)
    ]
    results = Results(name=run.recipe.name, devices=devices, phases=phases)
    if earlier is not None:
        results.merge_earlier(earlier)
    return results
