"""StableAdamW on all ZeRO stages and grids, compared with the float64 formula."""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from mmbert.training.engine.engine import Engine
from mmbert.training.engine.partitions import PartitionLayout, skips_weight_decay
from mmbert.training.engine.stable_adamw import StableAdamW
from tests.support.prescribed_gradients import (
    SPECS,
    PrescribedBatch,
    gather_full,
    initial_weight,
    prescribed_engine,
    recipe,
    seeded,
    start,
)
from tests.support.ranks import run_ranks
from tests.support.step_settings import make_settings

STEPS = 100
SPIKING = "embeddings.norm"
TOLERANCE = 1e-5


def full_gradient(name: str, step: int) -> Tensor:
    """Return a tensor's full gradient: noise of slowly changing scale; one tensor spikes."""
    noise = torch.randn(SPECS[name].full_shape, generator=seeded(f"gradient {name} {step}"))
    size = 0.01 * (1 + 0.5 * math.sin(step / 7))
    return noise * (8 * size if name == SPIKING and step % 5 == 4 else size)


def schedule(step: int) -> tuple[float, float]:
    """Return the learning rate (warm-up, then decay) and weight decay of a step."""
    rate = 1e-2 * min(1.0, (step + 1) / 10) * (1 - step / (2 * STEPS))
    return rate, 0.1 if step < 60 else 0.3


def part_of_gradient(name: str, step: int, part: int, parts: int) -> Tensor:
    """Return one of `parts` unequal addends of the full gradient."""
    total = full_gradient(name, step)
    addends = [
        torch.randn(total.shape, generator=seeded(f"part {name} {step} {i}")) * 0.01
        for i in range(parts - 1)
    ]
    return addends[part] if part < parts - 1 else total - sum(addends)


def float64_formula(
    steps: int, factors: Mapping[str, float] | None = None
) -> tuple[dict[str, Tensor], float]:
    """Return weights after `steps` steps of the formula, and the fraction of updates clipped.

    Args:
        factors: learning rates of groups of parameters, over the optimizer's.
    """
    settings = recipe().optimizer
    beta1, beta2 = settings.betas
    weights, clipped = {}, 0
    for name, spec in SPECS.items():
        weight = initial_weight(name).double()
        mean, square = torch.zeros_like(weight), torch.zeros_like(weight)
        for step in range(steps):
            rate, decay = schedule(step)
            gradient, t = full_gradient(name, step).double(), step + 1
            b1 = beta1 * (1 - beta1 ** (t - 1)) / (1 - beta1**t)
            b2 = beta2 * (1 - beta2 ** (t - 1)) / (1 - beta2**t)
            mean = b1 * mean + (1 - b1) * gradient
            square = b2 * square + (1 - b2) * gradient**2
            rms = (gradient**2 / square.clamp(min=settings.eps**2)).mean().sqrt()
            clipped += bool(rms > 1)
            rate = rate / max(1.0, float(rms))
            if len(spec.full_shape) > 1:
                weight = weight * (1 - rate / settings.learning_rate * decay)
            rate *= (factors or {}).get(spec.group, 1.0)
            weight = weight - rate * mean / (square.sqrt() + settings.eps)
        weights[name] = weight
    return weights, clipped / (steps * len(SPECS))


def train(engine: Engine, steps: int) -> float:
    """Train with one or two microbatches per data rank; return the fraction of updates clipped."""
    clipped = 0.0
    for step in range(steps):
        count = 1 + (step % 10 == 3)
        first, parts = count * engine.grid.data.rank, count * engine.grid.data.size
        for micro in range(count):
            part = partial(part_of_gradient, step=step, part=first + micro, parts=parts)
            batch = PrescribedBatch({name: part(name) for name in SPECS})
            engine.forward_backward(batch, make_settings(), dropout_seed=None, loss_scale=1.0)
        report = engine.optimizer_step(make_settings(*schedule(step)))
        assert report.finite
        clipped += float(report.metrics["update_rms_clipped_share"])
    return clipped / steps


def errors_on_grid(
    rank: int, world_size: int, tensor: int, stages: tuple[int, ...], fault: str | None = None
) -> list[dict[str, Any]]:
    """Return by ZeRO stage: relative errors of the weights, fraction clipped, divided tensors."""
    grid = start(rank, world_size, tensor)
    expected, _ = float64_formula(STEPS)
    results = []
    for stage in stages:
        engine = prescribed_engine(grid, parallel__zero_stage=stage)
        if fault is not None:
            break_statistics(engine, fault)
        clipped = train(engine, STEPS)
        full = gather_full(engine)
        errors = {
            name: float((full[name].double() - weight).norm() / weight.norm())
            for name, weight in expected.items()
        }
        held = [
            (fragment.name, fragment.length, math.prod(local_shape(fragment)))
            for fragment in engine.fragments()
        ]
        cut = [name for name, length, whole in held if length < whole]
        results.append({"errors": errors, "clipped": clipped, "cut": cut})
        engine.close()
    return results


def local_shape(fragment: Any) -> tuple[int, ...]:
    return fragment.spec.local_shape(fragment.tensor_rank, fragment.tensor_size)


def break_statistics(engine: Engine, fault: str) -> None:
    """Take the RMS over the wrong elements, as an optimizer unaware of ZeRO would."""
    optimizer = engine._client_optimizer
    assert isinstance(optimizer, StableAdamW)

    def over_the_partition(sums: Tensor, layout: PartitionLayout) -> Tensor:
        return sums.sum(0).expand(len(layout.full_sizes), 2)

    def over_the_shard(sums: Tensor, layout: PartitionLayout) -> Tensor:
        totals = torch.zeros((len(layout.full_sizes), 2), dtype=torch.float64)
        return totals.index_add_(0, layout.tensors, sums)

    def replicated_counted_twice(sums: Tensor, layout: PartitionLayout) -> Tensor:
        totals = over_the_shard(sums, layout)
        torch.distributed.all_reduce(totals)
        totals[:, 1] = layout.full_sizes
        return totals

    optimizer.sum_over_ranks = {
        "partition": over_the_partition,
        "shard": over_the_shard,
        "twice": replicated_counted_twice,
    }[fault]


@pytest.mark.parametrize(
    ("tensor", "data"),
    [
        *((1, 1), (1, 2), (2, 1), (2, 2)),
        *(pytest.param(*grid, marks=pytest.mark.long) for grid in ((1, 4), (2, 4))),
    ],
)
def test_a_hundred_steps_follow_the_formula(tensor: int, data: int) -> None:
    _, clipped = float64_formula(STEPS)
    assert clipped >= 0.1, "the prescribed gradients must make the clip act"
    results = run_ranks(errors_on_grid, tensor * data, tensor, (1, 2, 3), timeout=300)
    for stage, result in zip((1, 2, 3), results[0], strict=True):
        worst = max(result["errors"], key=result["errors"].__getitem__)
        print(f"ZeRO {stage}, {tensor}×{data}: {worst} {result['errors'][worst]:.1e}")
        assert result["errors"][worst] < TOLERANCE, (stage, result["errors"])
        assert result["clipped"] == pytest.approx(clipped, abs=1e-6)
    if data > 1:  # every stage cuts tensors, or the test would not show what it should
        for number in range(3):
            assert any(results[rank][number]["cut"] for rank in results)


@pytest.mark.parametrize(
    ("fault", "tensor", "stage"),
    [("partition", 1, 1), ("shard", 2, 3), ("shard", 1, 1), ("twice", 2, 2)],
)
def test_statistics_over_the_wrong_elements_are_noticed(
    fault: str, tensor: int, stage: int
) -> None:
    results = run_ranks(errors_on_grid, 2, tensor, (stage,), fault, timeout=120)
    assert max(results[0][0]["errors"].values()) > 10 * TOLERANCE


def wrong_layout(rank: int, world_size: int) -> str:
    engine = prescribed_engine(start(rank, world_size, 1))
    optimizer = engine._client_optimizer
    assert isinstance(optimizer, StableAdamW)
    assert optimizer.layout is not None
    twice = replace(optimizer.layout, owned=2 * optimizer.layout.owned)
    try:
        optimizer.attach(list(optimizer.state), [twice])
    except RuntimeError as error:
        return str(error)
    return ""


def test_elements_held_twice_are_refused_at_the_start() -> None:
    assert "hold 696 elements of tensor 0, which has 348" in run_ranks(wrong_layout, 1)[0]


def test_what_is_spared_weight_decay() -> None:
    assert skips_weight_decay("model.final_norm.weight", 1)
    assert skips_weight_decay("decoder.bias", 1)
    assert skips_weight_decay("some.bias", 2)
    assert not skips_weight_decay("model.embeddings.tok_embeddings.weight", 2)


def test_without_a_layout_it_refuses_to_step() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    optimizer = StableAdamW(
        [weight], learning_rate=0.1, betas=(0.9, 0.99), eps=1e-8, weight_decay=0
    )
    with pytest.raises(RuntimeError, match="layout"):
        optimizer.step()
