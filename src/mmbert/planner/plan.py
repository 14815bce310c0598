"""Cost estimate of a recipe on given GPUs, as a pure function: compute, memory, traffic, time."""

import math
from dataclasses import dataclass
from pathlib import Path

from mmbert.errors import ArgumentError, LauncherError
from mmbert.hardware import Gpu, find_gpu
from mmbert.model.config import encoder_config
from mmbert.planner.communication import Communication, step_communication
from mmbert.planner.data_statistics import gather_data_statistics
from mmbert.planner.estimate import Estimate, ParallelLayout, PhaseCost
from mmbert.planner.matrix_exchange import RoutingCost, exchange_cost
from mmbert.planner.memory import DeviceMemory, device_memory, local_parameters, usable_bytes
from mmbert.planner.parameter_count import ParameterCount, count_parameters, flops_per_token
from mmbert.planner.warnings import find_warnings
from mmbert.recipe import OptimizerSettings, Recipe
from mmbert.recipe.division import check_data_ranks, divided_by_data, not_divided_by_tensor
from mmbert.recipe.optimizers import MATRIX_OPTIMIZERS
from mmbert.schedule import PhasePlan, training_plan

# Default model FLOPs utilization: that of ModernBERT-base, the same architecture, on 8 H100 (1.7T
# tokens in 194 hours; AnswerDotAI/ModernBERT issue 236).
DEFAULT_MFU = 0.25

_KEY_NAMES = {
    "model.num_attention_heads": "attention heads",
    "model.intermediate_size": "inner width",
    "batch.row_tokens": "row_tokens",
}


def estimate(
    recipe: Recipe,
    *,
    gpus: int,
    gpu: str = "h100",
    shards: Path | None = None,
    mfu: float = DEFAULT_MFU,
) -> Estimate:
    """Estimate the cost of `recipe` on `gpus` GPUs of model `gpu`.

    Args:
        recipe: the recipe.
        gpus: number of GPUs.
        gpu: name of the GPU model.
        shards: source of vocabulary, languages and document lengths; without them, documents are
            assumed to fill the context (an upper bound).
        mfu: model FLOPs utilization, the fraction of the GPU's dense bfloat16 FLOP/s that the
            model's own FLOPs reach. Determines all times.

    Raises:
        UserError: unknown GPU, mfu outside (0, 1], a number of GPUs incompatible with the tensor
            size or the quantum, or shards that are damaged or lack text for the recipe.
    """
    hardware = find_gpu(gpu)
    _check(recipe, gpus, mfu)
    steps = training_plan(recipe)
    statistics = gather_data_statistics(recipe, steps, shards)
    parameters = count_parameters(recipe.model, statistics.vocabulary_size)
    setup = _Setup(
        recipe,
        hardware,
        gpus,
        mfu,
        statistics.vocabulary_size,
        parameters,
        statistics.document_slots,
    )
    exchange = _matrix_exchange(setup, recipe.parallel.tensor, recipe.parallel.zero_stage)
    matrix_seconds = 0.0 if exchange is None else exchange.seconds(hardware, gpus=gpus, mfu=mfu)
    phases = tuple(
        _phase_cost(setup, phase, statistics.mean_lengths[phase.name], matrix_seconds)
        for phase in steps.phases
    )
    layouts = _layouts(setup)
    every = recipe.checkpoint.every_tokens
    written = sum(math.ceil(p.tokens / every) if every else 1 for p in steps.phases)
    kept = recipe.checkpoint.keep_last + len(phases)
    if recipe.checkpoint.keep_every:
        kept += written // recipe.checkpoint.keep_every
    return Estimate(
        recipe=recipe,
        gpu=hardware,
        gpus=gpus,
        mfu=mfu,
        vocabulary_size=statistics.vocabulary_size,
        parameters=parameters,
        phases=phases,
        layouts=layouts,
        matrix_exchange=exchange,
        languages=statistics.languages,
        checkpoint_bytes=_checkpoint_bytes(recipe.optimizer, parameters),
        checkpoints_written=written,
        checkpoints_kept=min(kept, written),
        length_origin=statistics.length_origin,
        warnings=tuple(
            find_warnings(recipe, phases, layouts, statistics.languages, statistics.sizes)
        ),
    )


@dataclass(frozen=True)
class _Setup:
    """Inputs of the cost formulas: recipe, GPUs and data statistics."""

    recipe: Recipe
    gpu: Gpu
    gpus: int
    mfu: float
    vocabulary_size: int
    parameters: ParameterCount
    document_slots: dict[str, int]

    @property
    def compute_bytes(self) -> int:
        return 2 if self.recipe.precision == "bfloat16" else 4

    def masked_tokens(self, phase: int) -> int:
        """Return the mask slots of a row in the phase with index `phase`."""
        fraction = self.recipe.phases[phase].predicted_fraction
        return math.ceil(fraction * self.recipe.batch.row_tokens)


def _check(recipe: Recipe, gpus: int, mfu: float) -> None:
    if not 0 < mfu <= 1:
        raise ArgumentError(
            f"mfu must be in (0, 1], not {mfu}",
            remedy="give the fraction of the GPU's peak FLOP/s that is reached, such as 0.25",
        )
    if gpus < 1 or gpus % recipe.parallel.tensor:
        raise LauncherError(
            f"the number of GPUs ({gpus}) must be a multiple of parallel.tensor"
            f" ({recipe.parallel.tensor})",
            remedy="change the number of GPUs or parallel.tensor",
        )
    check_data_ranks(recipe.batch, recipe.parallel, gpus, unit="GPUs")


def _checkpoint_bytes(optimizer: OptimizerSettings, parameters: ParameterCount) -> int:
    """Return the bytes of all float32 masters and optimizer states."""
    others = parameters.total - parameters.matrices
    rows = 4 * len(optimizer.row_states) * parameters.matrix_rows
    of_matrices = optimizer.bytes_of("matrices") * parameters.matrices
    return of_matrices + optimizer.bytes_of("embedding") * others + rows


def _matrix_exchange(setup: _Setup, tensor: int, zero_stage: int) -> RoutingCost | None:
    """Return the cost of Muon's updates of matrices on a grid; None with other optimizers."""
    optimizer = setup.recipe.optimizer
    if optimizer.name not in MATRIX_OPTIMIZERS:
        return None
    return exchange_cost(
        encoder_config(setup.recipe.model, setup.vocabulary_size),
        tensor=tensor,
        data=setup.gpus // tensor,
        zero_stage=3 if zero_stage == 3 else 1,  # ZeRO 2 cuts as ZeRO 1
        bytes_per_element=setup.compute_bytes,
        row_factors=bool(optimizer.row_states),
    )


def _phase_cost(
    setup: _Setup, steps: PhasePlan, mean_length: float, matrix_seconds: float
) -> PhaseCost:
    recipe = setup.recipe
    phase = recipe.phases[steps.index]
    flops = flops_per_token(
        recipe.model,
        setup.vocabulary_size,
        phase.predicted_fraction,
        mean_length,
        causal=phase.causal,
    )
    step_tokens = steps.tokens / steps.steps
    speed = setup.gpu.flops * setup.mfu
    largest_rows = max(stage.rows for stage in steps.stages)

    def at(gpus: int) -> tuple[Communication, float]:
        tensor = recipe.parallel.tensor
        data = gpus // tensor
        traffic = step_communication(
            recipe.model,
            setup.gpu,
            local_parameters=local_parameters(setup.parameters, tensor),
            rows_per_rank=math.ceil(largest_rows / data),
            row_tokens=recipe.batch.row_tokens,
            masked_tokens=setup.masked_tokens(steps.index),
            tensor=tensor,
            data=data,
            zero_stage=recipe.parallel.zero_stage,
            compute_bytes=setup.compute_bytes,
        )
        arithmetic = largest_rows * recipe.batch.row_tokens * flops.total / (gpus * speed)
        return traffic, arithmetic

    limit = None
    gpus = setup.gpus
    while limit is None and gpus // recipe.parallel.tensor <= largest_rows:
        traffic, arithmetic = at(gpus)
        if traffic.seconds > arithmetic:
            limit = gpus
        gpus *= 2
    traffic_here, seconds_here = at(setup.gpus)
    exposed = traffic_here.exposed_seconds(
        seconds_here,
        rows_per_rank=math.ceil(largest_rows * recipe.parallel.tensor / setup.gpus),
        zero_stage=recipe.parallel.zero_stage,
        overlapped=recipe.precision == "bfloat16",
    )
    return PhaseCost(
        steps=steps,
        context=phase.context,
        predicted_fraction=phase.predicted_fraction,
        causal=phase.causal,
        mean_length=mean_length,
        flops=flops,
        communication=traffic_here,
        step_seconds=step_tokens * flops.total / (setup.gpus * speed) + exposed + matrix_seconds,
        compute_seconds=seconds_here,
        communication_bound_gpus=limit,
        matrix_seconds=matrix_seconds,
    )


def _layouts(setup: _Setup) -> tuple[ParallelLayout, ...]:
    """Evaluate the common tensor sizes and the recipe's own, with every ZeRO stage."""
    recipe = setup.recipe
    layouts = []
    sizes = sorted({1, 2, 4, setup.gpu.gpus_per_node, recipe.parallel.tensor})
    for tensor in (size for size in sizes if setup.gpus % size == 0):
        infeasible_reason = _infeasible_reason(recipe, tensor, setup.gpus // tensor)
        for zero_stage in (1, 2, 3):
            chosen = (tensor, zero_stage) == (recipe.parallel.tensor, recipe.parallel.zero_stage)
            memory = None if infeasible_reason else _peak_memory(setup, tensor, zero_stage)
            fits = memory is not None and memory.total <= usable_bytes(setup.gpu.memory_bytes)
            layouts.append(
                ParallelLayout(
                    tensor,
                    setup.gpus // tensor,
                    zero_stage,
                    memory,
                    fits,
                    chosen,
                    infeasible_reason,
                )
            )
    return tuple(layouts)


def _infeasible_reason(recipe: Recipe, tensor: int, data: int) -> str | None:
    found = not_divided_by_tensor(
        tensor,
        num_attention_heads=recipe.model.num_attention_heads,
        intermediate_size=recipe.model.intermediate_size,
        row_tokens=recipe.batch.row_tokens,
    )
    if found is not None:
        key, value = found
        return f"{value} {_KEY_NAMES[key]} not divisible by {tensor}"
    if not divided_by_data(recipe.batch, data):
        return f"quantum {recipe.batch.quantum} not divisible by {data} data ranks"
    return None


def _peak_memory(setup: _Setup, tensor: int, zero_stage: int) -> DeviceMemory:
    recipe = setup.recipe
    optimizer, saved = recipe.optimizer, 0
    exchange = _matrix_exchange(setup, tensor, zero_stage)
    if exchange is not None:
        fewer = optimizer.bytes_per_parameter - optimizer.bytes_of("matrices")
        rows = 4 * len(optimizer.row_states) * exchange.most_rows
        saved = fewer * exchange.least_held - rows
    return max(
        (
            device_memory(
                encoder_config(recipe.model, setup.vocabulary_size),
                setup.parameters,
                row_tokens=recipe.batch.row_tokens,
                masked_tokens=setup.masked_tokens(index),
                document_slots=setup.document_slots[phase.name],
                tensor=tensor,
                data=setup.gpus // tensor,
                sequence=recipe.parallel.sequence,
                zero_stage=zero_stage,
                compute_bytes=setup.compute_bytes,
                optimizer_bytes=optimizer.bytes_per_parameter,
                matrix_bytes_saved=saved,
                exchange_bytes=0 if exchange is None else exchange.most_bytes,
            )
            for index, phase in enumerate(recipe.phases)
        ),
        key=lambda memory: memory.total,
    )
