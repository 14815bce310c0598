"""Learning rates of groups of parameters: float64 formulas, all grids and stages, checkpoints."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmbert.checkpoint.store import CheckpointStore
from mmbert.parallel.process_grid import TensorGroup
from mmbert.training.engine.partitions import parameter_groups
from tests.support import prescribed_run
from tests.support.prescribed_gradients import (
    SPECS,
    PrescribedModel,
    gather_full,
    initial_weight,
    prescribed_engine,
    recipe,
    start,
)
from tests.support.prescribed_run import all_states, assert_bits_equal, state_at
from tests.support.ranks import run_ranks
from tests.training.engine.test_stable_adamw import (
    float64_formula,
    full_gradient,
    schedule,
    train,
)

STEPS = 10
RATES = {"matrices": 3e-3, "embedding": 2.5e-2}
FACTORS = {"matrices": 0.3, "embedding": 2.5, "rest": 1.0}
STAGES = (1, 2, 3)
# float32 rounds a weight by at most 6e-8 in each of two operations of ten steps; found: 1.6e-7.
TOLERANCE = 1.2e-6


def adamw_formula(steps: int) -> dict[str, Tensor]:
    """Return weights after `steps` steps of AdamW in float64, decay relative to the peak rate."""
    settings = recipe().optimizer
    beta1, beta2 = settings.betas
    weights = {}
    for name, spec in SPECS.items():
        weight = initial_weight(name).double()
        mean = square = torch.zeros_like(weight)
        for step in range(steps):
            rate, decay = schedule(step)
            gradient, t = full_gradient(name, step).double(), step + 1
            mean = beta1 * mean + (1 - beta1) * gradient
            square = beta2 * square + (1 - beta2) * gradient**2
            if len(spec.full_shape) > 1:
                weight = weight * (1 - rate / settings.learning_rate * decay)
            root = (square / (1 - beta2**t)).sqrt() + settings.eps
            weight = weight - FACTORS[spec.group] * rate * mean / (1 - beta1**t) / root
        weights[name] = weight
    return weights


def errors_on_grid(rank: int, world_size: int, tensor: int) -> dict[tuple[str, int], float]:
    """Return the largest relative error of a tensor by optimizer and ZeRO stage."""
    grid = start(rank, world_size, tensor)
    expected = {
        "stable_adamw": float64_formula(STEPS, FACTORS)[0],
        "adamw": adamw_formula(STEPS),
    }
    errors = {}
    for name, weights in expected.items():
        for stage in STAGES:
            engine = prescribed_engine(
                grid,
                parallel__zero_stage=stage,
                optimizer__name=name,
                optimizer__group_learning_rates=RATES,
            )
            train(engine, STEPS)
            full = gather_full(engine)
            errors[name, stage] = max(
                float((full[key].double() - weight).norm() / weight.norm())
                for key, weight in weights.items()
            )
            engine.close()
    return errors


@pytest.mark.parametrize(
    ("tensor", "data"),
    [
        *((1, 1), (2, 2)),
        *(pytest.param(*grid, marks=pytest.mark.long) for grid in ((1, 2), (2, 1))),
    ],
)
def test_each_group_follows_the_formula_at_its_own_rate(tensor: int, data: int) -> None:
    """On twelve grids: every tensor and data size with every ZeRO stage."""
    errors = run_ranks(errors_on_grid, tensor * data, tensor, timeout=300)[0]
    assert len(errors) == 2 * len(STAGES)
    print(f"{tensor}×{data}: {max(errors.values()):.1e}")
    for case, error in errors.items():
        assert error < TOLERANCE, (case, error)


def rates_changed_at_a_resume(rank: int, world_size: int, root: Path) -> list[list[Any]]:
    """Save with one rate, continue with rates of groups, and back.

    Returns by optimizer the full states at the first save, and at each load and the next save.
    """
    grid = start(rank, world_size, 1)
    results = []
    for name in ("stable_adamw", "adamw"):
        states, source = [], None
        store = CheckpointStore(root / name, asynchronous=False)
        for first, rates in ((0, None), (3, RATES), (6, None)):
            engine = prescribed_engine(
                grid, optimizer__name=name, optimizer__group_learning_rates=rates
            )
            if source is not None:
                store.load(engine, source)
                states.append(all_states(engine))
            prescribed_run.train(engine, first, first + 3)
            states.append(all_states(engine))
            source = store.save(engine, state_at(first + 3))
            engine.close()
        results.append(states)
    return results


def test_rates_may_change_at_a_resume(tmp_path: Path) -> None:
    """AdamW's partitions are others with rates of groups; a parameter's states stay the same."""
    for states in run_ranks(rates_changed_at_a_resume, 2, tmp_path)[0]:
        assert_bits_equal(states[0], states[1])
        assert_bits_equal(states[2], states[3])
        assert not np.array_equal(states[1]["qkv.weight/master"], states[2]["qkv.weight/master"])


def test_parameters_are_divided_by_rate_only_where_rates_differ() -> None:
    model = PrescribedModel(TensorGroup.single())
    alike = parameter_groups(model, dict.fromkeys(FACTORS, 1.0))
    assert [group["decays"] for group in alike] == [False, True]
    divided = parameter_groups(model, FACTORS)
    assert [(group["decays"], group["rate_factor"]) for group in divided] == [
        (False, 1.0), (True, 0.3), (True, 2.5),
    ]  # fmt: skip
    for groups in (alike, divided):
        parameters = [parameter for group in groups for parameter in group["params"]]
        assert set(map(id, parameters)) == set(map(id, model.parameters()))
        assert len(parameters) == len(SPECS)
