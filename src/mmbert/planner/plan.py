"""What a recipe will take on given GPUs, as a pure function: arithmetic, memory, traffic, time."""

import math
from dataclasses import dataclass
from pathlib import Path

from mmbert.errors import UserError
from mmbert.hardware import Gpu, find_gpu
from mmbert.model.config import encoder_config
from mmbert.planner.communication import Communication, step_communication
from mmbert.planner.data_statistics import gather_evidence
from mmbert.planner.estimate import Layout, PhaseCost, Plan
from mmbert.planner.memory import DeviceMemory, device_memory, local_parameters, usable_bytes
from mmbert.planner.parameter_count import ParameterCount, count_parameters, flops_per_token
from mmbert.planner.warnings import find_warnings
from mmbert.recipe import Recipe
from mmbert.recipe.division import check_data_ranks, divided_by_data, not_divided_by_tensor
from mmbert.schedule import PhasePlan, training_plan

# Model-FLOPs utilisation when none is stated: what ModernBERT-base, the same architecture, reached
# on 8 H100 (1.7T tokens in 194 hours; AnswerDotAI/ModernBERT issue 236).
DEFAULT_UTILISATION = 0.25

_IN_WORDS = {
    "model.num_attention_heads": "attention heads",
    "model.intermediate_size": "inner width",
    "batch.row_tokens": "row_tokens",
}


def plan(
    recipe: Recipe,
    *,
    gpus: int,
    gpu: str = "h100",
    shards: Path | None = None,
    utilisation: float = DEFAULT_UTILISATION,
) -> Plan:
    """Cost `recipe` on `gpus` GPUs of the kind `gpu`.

    `utilisation` is the share of the GPU's dense bfloat16 FLOP/s that the model's own arithmetic
    reaches; times rest on it. With `shards`, vocabulary, languages and document lengths come from
    them; without, documents are taken to fill the context (an upper bound). UserError: an unknown
    GPU, a utilisation outside 0 … 1, GPUs that the tensor size or the quantum does not divide,
    shards that are unsound or lack what the recipe asks for.
    """
    hardware = find_gpu(gpu)
    _check(recipe, gpus, utilisation)
    steps = training_plan(recipe)
    evidence = gather_evidence(recipe, steps, shards)
    parameters = count_parameters(recipe.model, evidence.vocabulary_size)
    site = _Site(
        recipe,
        hardware,
        gpus,
        utilisation,
        evidence.vocabulary_size,
        parameters,
        evidence.document_slots,
    )
    phases = tuple(
        _phase_cost(site, phase, evidence.mean_lengths[phase.name]) for phase in steps.phases
    )
    layouts = _layouts(site)
    every = recipe.checkpoint.every_tokens
    written = sum(math.ceil(p.tokens / every) if every else 1 for p in steps.phases)
    kept = recipe.checkpoint.keep_last + len(phases)
    if recipe.checkpoint.keep_every:
        kept += written // recipe.checkpoint.keep_every
    return Plan(
        recipe=recipe,
        gpu=hardware,
        gpus=gpus,
        utilisation=utilisation,
        vocabulary_size=evidence.vocabulary_size,
        parameters=parameters,
        phases=phases,
        layouts=layouts,
        languages=evidence.languages,
        # The float32 master and the optimiser's two moments of every parameter.
        checkpoint_bytes=12 * parameters.total,
        checkpoints_written=written,
        checkpoints_kept=min(kept, written),
        length_origin=evidence.length_origin,
        warnings=tuple(find_warnings(recipe, phases, layouts, evidence.languages)),
    )


@dataclass(frozen=True)
class _Site:
    """A recipe on given GPUs: what every part of the costing needs."""

    recipe: Recipe
    gpu: Gpu
    gpus: int
    utilisation: float
    vocabulary_size: int
    parameters: ParameterCount
    document_slots: dict[str, int]

    @property
    def compute_bytes(self) -> int:
        return 2 if self.recipe.precision == "bfloat16" else 4

    def masked_tokens(self, phase: int) -> int:
        """Mask slots of a row in the phase of that index."""
        return math.ceil(self.recipe.phases[phase].mask_ratio * self.recipe.batch.row_tokens)


def _check(recipe: Recipe, gpus: int, utilisation: float) -> None:
    if not 0 < utilisation <= 1:
        raise UserError(
            f"a utilisation of {utilisation} is not possible",
            remedy="give the share of the GPU's FLOP/s that the model reaches, such as 0.25",
        )
    if gpus < 1 or gpus % recipe.parallel.tensor:
        raise UserError(
            f"{gpus} GPUs are not a multiple of parallel.tensor {recipe.parallel.tensor}",
            remedy="change the number of GPUs or parallel.tensor",
        )
    check_data_ranks(recipe.batch, recipe.parallel, gpus, unit="GPUs")


def _phase_cost(site: _Site, steps: PhasePlan, mean_length: float) -> PhaseCost:
    recipe = site.recipe
    phase = recipe.phases[steps.index]
    flops = flops_per_token(recipe.model, site.vocabulary_size, phase.mask_ratio, mean_length)
    step_tokens = steps.tokens / steps.steps
    speed = site.gpu.flops * site.utilisation
    largest_rows = max(stage.rows for stage in steps.stages)

    def at(gpus: int) -> tuple[Communication, float]:
        tensor = recipe.parallel.tensor
        data = gpus // tensor
        traffic = step_communication(
            recipe.model,
            site.gpu,
            local_parameters=local_parameters(site.parameters, tensor),
            rows_per_rank=math.ceil(largest_rows / data),
            row_tokens=recipe.batch.row_tokens,
            masked_tokens=site.masked_tokens(steps.index),
            tensor=tensor,
            data=data,
            zero_stage=recipe.parallel.zero_stage,
            compute_bytes=site.compute_bytes,
        )
        arithmetic = largest_rows * recipe.batch.row_tokens * flops.total / (gpus * speed)
        return traffic, arithmetic

    limit = None
    gpus = site.gpus
    while limit is None and gpus // recipe.parallel.tensor <= largest_rows:
        traffic, arithmetic = at(gpus)
        if traffic.seconds > arithmetic:
            limit = gpus
        gpus *= 2
    traffic_here, seconds_here = at(site.gpus)
    exposed = traffic_here.exposed_seconds(
        seconds_here,
        rows_per_rank=math.ceil(largest_rows * recipe.parallel.tensor / site.gpus),
        zero_stage=recipe.parallel.zero_stage,
        overlapped=recipe.precision == "bfloat16",
    )
    return PhaseCost(
        steps=steps,
        context=phase.context,
        mask_ratio=phase.mask_ratio,
        mean_length=mean_length,
        flops=flops,
        communication=traffic_here,
        step_seconds=step_tokens * flops.total / (site.gpus * speed) + exposed,
        full_step_seconds=seconds_here,
        limit_gpus=limit,
    )


def _layouts(site: _Site) -> tuple[Layout, ...]:
    """The usual tensor sizes within a node, and the recipe's own, with every ZeRO stage."""
    recipe = site.recipe
    layouts = []
    sizes = sorted({1, 2, 4, site.gpu.gpus_per_node, recipe.parallel.tensor})
    for tensor in (size for size in sizes if site.gpus % size == 0):
        obstacle = _obstacle(recipe, tensor, site.gpus // tensor)
        for zero_stage in (1, 2, 3):
            chosen = (tensor, zero_stage) == (recipe.parallel.tensor, recipe.parallel.zero_stage)
            memory = None if obstacle else _largest_memory(site, tensor, zero_stage)
            fits = memory is not None and memory.total <= usable_bytes(site.gpu.memory_bytes)
            layouts.append(
                Layout(tensor, site.gpus // tensor, zero_stage, memory, fits, chosen, obstacle)
            )
    return tuple(layouts)


def _obstacle(recipe: Recipe, tensor: int, data: int) -> str | None:
    found = not_divided_by_tensor(
        tensor,
        num_attention_heads=recipe.model.num_attention_heads,
        intermediate_size=recipe.model.intermediate_size,
        row_tokens=recipe.batch.row_tokens,
    )
    if found is not None:
        key, value = found
        return f"{value} {_IN_WORDS[key]} do not divide by {tensor}"
    if not divided_by_data(recipe.batch, data):
        return f"{data} data ranks do not divide the quantum {recipe.batch.quantum}"
    return None


def _largest_memory(site: _Site, tensor: int, zero_stage: int) -> DeviceMemory:
    recipe = site.recipe
    return max(
        (
            device_memory(
                encoder_config(recipe.model, site.vocabulary_size),
                site.parameters,
                row_tokens=recipe.batch.row_tokens,
                masked_tokens=site.masked_tokens(index),
                document_slots=site.document_slots[phase.name],
                tensor=tensor,
                data=site.gpus // tensor,
                sequence=recipe.parallel.sequence,
                zero_stage=zero_stage,
                compute_bytes=site.compute_bytes,
                optimizer_bytes=recipe.optimizer.bytes_per_parameter,
            )
            for index, phase in enumerate(recipe.phases)
        ),
        key=lambda memory: memory.total,
    )
