"""Two tensor ranks times two data ranks under ZeRO 1, 2 and 3 train as one process does.

The real engine with StableAdamW, float32, gloo, dropout on; four rows a step with different numbers
of masked tokens, two on each data rank. At StableAdamW's first step `exp_avg` is the reduced
gradient itself, and is held against plain autograd's. After every step the sanity checks of a real
run look at all ranks. Then the mistakes that such a program invites are made on purpose, under each
stage, and the very same comparison must see them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from mmbert.model.config import Recompute
from mmbert.model.modernbert import MaskedLanguageModel
from mmbert.model.packed_batch import PackedBatch
from mmbert.parallel.parameter_spec import spec_of
from mmbert.parallel.process_grid import ProcessGrid
from mmbert.parallel.sanity_checks import require_sane_model
from mmbert.training.engine.engine import Engine
from tests.support.assembling import assemble
from tests.support.prescribed_gradients import gather_shards, recipe, start
from tests.support.ranks import run_ranks
from tests.support.step_settings import make_settings
from tests.support.tiny_models import BASES, random_row, tiny_config, tiny_model

STEPS, ROWS = 6, 4
LIMITS = {
    "row losses": 1e-5,
    "losses": 1e-4,  # of all steps
    "norm": 1e-5,
    "gradients": 1e-5,
    "weights": 1e-4,
    "replicated": 0.0,
}
Arrays = dict[str, list[npt.NDArray[np.float32]]]


@dataclass(frozen=True)
class Case:
    """How the grid of four trains, and which mistake is made."""

    stage: int
    sequence: bool = True
    recompute: Recompute = "none"
    mistake: str | None = None

    def __str__(self) -> str:
        tokens = "sharded tokens" if self.sequence else "replicated tokens"
        return f"ZeRO {self.stage}, {tokens}, recompute {self.recompute}"


RUNS = [
    Case(1, sequence=False),
    Case(1),
    Case(2, sequence=False),
    Case(2),
    Case(3, sequence=False),
    Case(3, recompute="selective"),
    Case(3, recompute="full"),
]


@dataclass
class Result:
    """What a rank saw; full tensors, of a replicated parameter one from each tensor rank."""

    row_losses: dict[int, npt.NDArray[np.float32]] = field(default_factory=dict)
    """Of the first step's rows that this rank had."""
    losses: list[float] = field(default_factory=list)
    """This rank's part of every step's loss."""
    norm: float = 0.0
    gradients: Arrays = field(default_factory=dict)
    weights: Arrays = field(default_factory=dict)
    replicated_differ: bool = False


def row_of(step: int, number: int) -> PackedBatch:
    """Row `number` of a step; the rows have different numbers of masked tokens."""
    row = random_row(seed=100 * step + number, row_index=step * ROWS + number)
    weights = row.weights.clone()
    weights[: 3 * number] = 0
    return replace(row, weights=weights)


def masked_tokens(step: int) -> float:
    return sum(float(row_of(step, number).weights.sum()) for number in range(ROWS))


def remove_hooks(model: MaskedLanguageModel) -> None:
    """Gradients of replicated weights stay each tensor rank's own part."""
    for hook in model.gradient_hooks:
        hook.remove()


def average_over_tensor_group(model: MaskedLanguageModel) -> None:
    for parameter in model.parameters():
        if spec_of(parameter).sequence_parallel:
            parameter.register_hook(lambda gradient: gradient / model.group.size)


def remove_a_flag(model: MaskedLanguageModel) -> None:
    weight = model.model.layers[1].mlp.Wi.weight
    weight.tensor_model_parallel = weight.model_parallel = False


def mix_gate_and_up(model: MaskedLanguageModel) -> None:
    """Rank 0 gets all of the activated half."""
    weight = model.model.layers[1].mlp.Wi.weight
    full = tiny_model().model.layers[1].mlp.Wi.weight
    with torch.no_grad():
        weight.copy_(full.chunk(model.group.size)[model.group.rank])


# What is done to the model before the engine takes it over, and what the comparison must see.
MISTAKES: dict[str, tuple[Callable[[MaskedLanguageModel], None] | None, set[str]]] = {
    "hook on replicated gradients removed": (remove_hooks, {"gradients", "norm", "replicated"}),
    "tensor-parallel flag removed": (remove_a_flag, {"norm"}),
    "averaged over the tensor group": (average_over_tensor_group, {"gradients", "norm"}),
    "averaged over the data ranks": (None, {"gradients", "norm"}),
    "gate and up mixed": (mix_gate_and_up, {"row losses", "losses", "gradients", "norm"}),
    "one rank's masks shifted": (None, {"row losses", "losses", "gradients", "norm"}),
}


def engine_of(grid: ProcessGrid, case: Case) -> Engine:
    model = tiny_model(
        tiny_config(recompute=case.recompute), grid.tensor, sequence_parallel=case.sequence
    )
    spoil = MISTAKES[case.mistake][0] if case.mistake else None
    if spoil is not None:
        spoil(model)
    settings = recipe(
        parallel__tensor=grid.tensor.size,
        parallel__sequence=case.sequence,
        parallel__zero_stage=case.stage,
    )
    engine = Engine(model, settings, grid, torch.device("cpu"))
    if case.stage == 3 and grid.world_size > 1:
        assert any(parameter.numel() == 0 for parameter in engine.module.parameters())
    return engine


def train(grid: ProcessGrid, case: Case, steps: int) -> Result:
    engine, result = engine_of(grid, case), Result()
    for step in range(steps):
        loss = 0.0
        for number in range(grid.data.rank, ROWS, grid.data.size):
            row, scale = row_of(step, number), 1 / masked_tokens(step)
            if case.mistake == "one rank's masks shifted" and grid.rank == grid.world_size - 1:
                length = len(row.input_ids)
                row = replace(row, masked_positions=(row.masked_positions + 1) % length)
            if case.mistake == "averaged over the data ranks":
                scale /= grid.data.size
            values = engine.forward_backward(
                row,
                make_settings(rotary_bases=BASES),
                dropout_seed=7,
                loss_scale=scale,
                last=step % 2 == 0 and number + grid.data.size >= ROWS,
            )
            loss += float(values.double().sum()) / masked_tokens(step)
            if step == 0:
                result.row_losses[number] = values.numpy()
        result.losses.append(loss)
        report = engine.optimizer_step(make_settings(1e-3, 1e-2))
        if step == 0:
            result.norm = float(report.gradient_norm)
            result.gradients = gather(engine, result, "exp_avg")
        if step == steps - 1 or case.mistake is not None:
            result.weights = gather(engine, result)
        if case.mistake is None:
            partitions = None
            if case.stage == 3:
                # Not the parameters' own: DeepSpeed pads those with memory as it finds it.
                partitions = {part.name: part.master for part in engine.fragments()}
            require_sane_model(engine.module, grid, partitions=partitions)
    engine.close()
    return result


def gather(engine: Engine, result: Result, state: str = "master") -> Arrays:
    """Full tensors; notes in `result` whether copies of replicated ones differ."""
    full: Arrays = {}
    shards_of = gather_shards(engine, state)
    for spec in engine.specs:
        shards = shards_of[spec.name]
        if spec.is_split:
            shards = [assemble(shards, spec)]
        result.replicated_differ |= any(not torch.equal(share, shards[0]) for share in shards)
        full[spec.name] = [share.numpy() for share in shards]
    return full


def train_on_rank(
    rank: int, world_size: int, tensor: int, cases: list[Case], steps: int
) -> list[Result]:
    put_everything_away()
    return [train(start(rank, world_size, tensor), case, steps) for case in cases]


def put_everything_away() -> None:
    """ZeRO 3 never puts small tensors away, which here are all of them, unless told to."""
    import deepspeed

    initialize = deepspeed.initialize

    def with_threshold(*, config: dict[str, Any], **arguments: Any) -> Any:
        zero = config["zero_optimization"] | {"stage3_param_persistence_threshold": 0}
        return initialize(config=config | {"zero_optimization": zero}, **arguments)

    deepspeed.initialize = with_threshold


@cache
def alone() -> Result:
    """One process; its first gradients are autograd's alone."""
    result = run_ranks(train_on_rank, 1, 1, [Case(1, sequence=False)], STEPS)[0][0]
    model = tiny_model()
    for number in range(ROWS):
        losses = model(row_of(0, number), rotary_bases=BASES, dropout_seed=7)
        (losses.sum() / masked_tokens(0)).backward()
    gradients = {name: [p.grad.numpy()] for name, p in model.named_parameters()}
    assert worst(result.gradients, gradients) < LIMITS["gradients"], "the engine's against these"
    norm = float(np.linalg.norm([np.linalg.norm(g) for (g,) in gradients.values()]))
    return replace(result, gradients=gradients, norm=norm)


def relative(got: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> float:
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def worst(got: Arrays, wanted: Arrays) -> float:
    """The largest relative difference by norm, over all copies."""
    assert got.keys() == wanted.keys()
    return max(relative(copy, wanted[name][0]) for name, copies in got.items() for copy in copies)


def differences(ranks: list[Result], steps: int) -> dict[str, float]:
    """The largest difference of each kind between four ranks and one process."""
    expected = alone()
    # The two data ranks' parts of each step's loss; both tensor ranks have the same.
    sums = [np.add(ranks[first].losses, ranks[first + 2].losses) for first in (0, 1)]
    found = {
        "row losses": max(
            relative(values, expected.row_losses[number])
            for rank in ranks
            for number, values in rank.row_losses.items()
        ),
        "losses": max(relative(total, np.array(expected.losses[:steps])) for total in sums),
        "norm": max(abs(rank.norm / expected.norm - 1) for rank in ranks),
        "gradients": worst(ranks[0].gradients, expected.gradients),
        "replicated": float(any(rank.replicated_differ for rank in ranks)),
    }
    if steps == STEPS:
        found["weights"] = worst(ranks[0].weights, expected.weights)
    return found


def faults(found: dict[str, float]) -> set[str]:
    """Which of the promises of sameness do not hold."""
    return {kind for kind, difference in found.items() if not difference <= LIMITS[kind]}


@cache
def on_the_grid() -> list[dict[str, float]]:
    """The differences of each of RUNS."""
    by_rank = run_ranks(train_on_rank, 4, 2, RUNS, STEPS, timeout=300)
    return [
        differences([by_rank[rank][run] for rank in range(4)], STEPS) for run in range(len(RUNS))
    ]


@pytest.mark.parametrize("run", range(len(RUNS)), ids=map(str, RUNS))
def test_two_by_two_trains_as_one_process(run: int) -> None:
    found = on_the_grid()[run]
    shown = ", ".join(f"{kind} {value:.1e}" for kind, value in found.items())
    print(f"{RUNS[run]}: {shown}")
    assert faults(found) == set(), found


@cache
def with_mistakes(stage: int) -> dict[str, dict[str, float]]:
    """The differences after one step with each mistake; "none" is made first."""
    names = [None, *MISTAKES]
    cases = [Case(stage, mistake=name) for name in names]
    by_rank = run_ranks(train_on_rank, 4, 2, cases, 1, timeout=300)
    return {
        str(name): differences([by_rank[rank][number] for rank in range(4)], 1)
        for number, name in enumerate(names)
    }


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_every_mistake_is_seen(stage: int) -> None:
    """Negative controls: one thing broken each time, the same comparison and limits as above."""
    found = with_mistakes(stage)
    assert faults(found["None"]) == set(), found["None"]
    for mistake, (_, seen) in MISTAKES.items():
        assert faults(found[mistake]) >= seen, (mistake, found[mistake])
    # And nothing besides: what is wrong is what was broken.
    assert faults(found["tensor-parallel flag removed"]) == {"norm"}
    assert "row losses" not in faults(found["averaged over the data ranks"])
