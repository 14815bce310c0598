"""Runs the largest batch of every phase before training, so that OOM surfaces immediately.

Phase 2 may begin a week after phase 1, with eight times the context. The engine runs the batch as
in training: forward, backward, reduction. The loss scale is NaN, so that the engine finds
non-finite gradients and skips the update; weights and optimizer states are unchanged.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from mmbert.data.loading.packing import RowShape
from mmbert.errors import DeviceError
from mmbert.model.packed_batch import PackedBatch
from mmbert.recipe import Phase, Recipe
from mmbert.schedule import StepSettings, step_settings, training_plan
from mmbert.training.engine.engine import Engine, OptimizerReport


def worst_case_batch(
    phase: Phase, shape: RowShape, vocabulary_size: int, device: torch.device
) -> PackedBatch:
    """Build the most expensive row of a phase.

    Documents span the full context, and all mask slots are filled. The number of segment slots is
    the maximum, because each slot costs attention time.
    """
    tokens = shape.row_tokens
    slots = math.ceil(phase.predicted_fraction * tokens)
    starts = torch.arange(shape.max_segments + 1) * phase.context
    # Spread ids over the vocabulary, so that every tensor rank looks up some of its embeddings.
    ids = torch.arange(tokens) * (vocabulary_size // tokens + 1) % vocabulary_size
    positions = torch.arange(slots) * tokens // slots
    return PackedBatch(
        input_ids=ids,
        cu_seqlens=starts.clamp(max=tokens).int(),
        max_seqlen=min(phase.context, tokens),
        masked_positions=positions,
        labels=ids[positions],
        weights=torch.ones(slots),
        row_index=0,
    ).to(device)


def run_memory_check(
    engine: Engine, recipe: Recipe, shapes: Sequence[RowShape], vocabulary_size: int
) -> dict[str, int]:
    """Run the largest batch of every phase.

    Args:
        shapes: row shape of each phase.

    Returns:
        Peak device memory in bytes by phase (0 on a CPU).

    Raises:
        DeviceError: a phase does not fit into device memory.
    """
    peaks, plan = {}, training_plan(recipe)
    for phase, phase_plan, shape in zip(recipe.phases, plan.phases, shapes, strict=True):
        settings = step_settings(recipe, plan, phase_plan.first_step)
        if engine.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        batch = worst_case_batch(phase, shape, vocabulary_size, engine.device)
        try:
            with _without_warnings():
                report = _run(engine, batch, settings, recipe.seed)
        except torch.OutOfMemoryError as error:
            raise _does_not_fit(recipe, phase) from error
        if report.finite:
            raise RuntimeError("the engine took a step with non-finite gradients")
        peaks[phase.name] = torch.cuda.max_memory_allocated() if engine.device.type == "cuda" else 0
    return peaks


def _run(
    engine: Engine, batch: PackedBatch, settings: StepSettings, dropout_seed: int
) -> OptimizerReport:
    engine.forward_backward(
        batch, settings, dropout_seed=dropout_seed, loss_scale=math.nan, last=True
    )
    return engine.optimizer_step(settings)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence DeepSpeed's warnings about the (intended) non-finite gradients."""
    logger = logging.getLogger("DeepSpeed")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _does_not_fit(recipe: Recipe, phase: Phase) -> DeviceError:
    settings = recipe.parallel
    remedies = []
    if recipe.model.recompute != "full":
        remedies.append("model.recompute=full")
    remedies.append(f"batch.row_tokens below {recipe.batch.row_tokens}")
    remedies.append(f"parallel.tensor above {settings.tensor}")
    if not settings.sequence:
        remedies.append("parallel.sequence=true with it")
    if settings.zero_stage < 3:
        remedies.append(f"parallel.zero_stage={settings.zero_stage + 1}")
    return DeviceError(
        f"phase '{phase.name}' (context {phase.context}, {recipe.batch.row_tokens} tokens per row) "
        "does not fit into device memory",
        remedy=f"try {', '.join(remedies)}; `mmbert plan` shows the effect of each",
    )
