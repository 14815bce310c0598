"""Recomputation and evaluation between steps do not change losses and norms, at any ZeRO stage.

tests/integration/test_zero_parity.py compares grids and stages.
"""

from typing import Any

import numpy as np
import torch

from mmbert.model.packed_batch import PackedBatch
from mmbert.training.engine.engine import Engine
from tests.support.prescribed_gradients import gather_full, recipe, start
from tests.support.ranks import run_ranks
from tests.support.step_settings import make_settings
from tests.support.tiny_models import BASES, random_row, tiny_config, tiny_model

ROWS = 4


def row_of(step: int, number: int) -> PackedBatch:
    return random_row(seed=100 * step + number, row_index=step * ROWS + number)


def engine_of(rank: int, world_size: int, recompute: str = "none", **settings: Any) -> Engine:
    grid = start(rank, world_size, 1)
    model = tiny_model(tiny_config(recompute=recompute), grid.tensor)
    return Engine(model, recipe(**settings), grid, torch.device("cpu"))


def train(engine: Engine, steps: int) -> list[float]:
    """Return the losses of this rank's rows and the gradient norm of every step."""
    figures = []
    for step in range(steps):
        for number in range(engine.grid.data.rank, ROWS, engine.grid.data.size):
            losses = engine.forward_backward(
                row_of(step, number),
                make_settings(rotary_bases=BASES),
                dropout_seed=7,
                loss_scale=0.01,
                last=number + engine.grid.data.size >= ROWS,
            )
            figures.append(float(losses.double().sum()))
        figures.append(float(engine.optimizer_step(make_settings(1e-3, 0.01)).gradient_norm))
    return figures


def with_recomputation(rank: int, world_size: int) -> list[list[float]]:
    """Return losses and norms of two bfloat16 steps by ZeRO stage and recomputation; last those of
    ZeRO 1 with the embedding gradient rounded to bfloat16, as in the other stages."""
    figures = []
    ways = [(s, r, False) for s in (1, 2, 3) for r in ("none", "selective", "full")]
    for stage, recompute, rounded in [*ways, (1, "none", True)]:
        engine = engine_of(
            rank, world_size, recompute, parallel__zero_stage=stage, precision="bfloat16"
        )
        if rounded:
            for parameter in engine.module.parameters():
                del parameter.main_grad  # type: ignore[attr-defined]
        figures.append(train(engine, 2))
        engine.close()
    return figures


def test_recomputation_changes_nothing_under_any_stage() -> None:
    """ZeRO 3 gathers the weights again for recomputation; losses and norms are bitwise equal."""
    *figures, rounded = run_ranks(with_recomputation, 2, timeout=300)[0]
    for number in range(0, 9, 3):
        assert figures[number] == figures[number + 1] == figures[number + 2], figures
    np.testing.assert_allclose(figures[3:], [rounded] * 6, rtol=1e-5)
    # one rounding of the vocabulary's gradient; the first losses come before any gradient
    assert figures[0][:2] == rounded[:2]
    assert figures[0] != rounded
    np.testing.assert_allclose(figures[0], rounded, rtol=1e-3)


def evaluate_between_steps(rank: int, world_size: int) -> list[str]:
    """Train twice, once with evaluations between the steps; return the differences."""
    problems = []
    for stage in (1, 2, 3):
        ends, losses = [], []
        for evaluate in (False, True):
            engine = engine_of(rank, world_size, parallel__zero_stage=stage)
            for _ in range(3):
                train(engine, 1)
                if evaluate:
                    with torch.no_grad():
                        row = row_of(50, 0)
                        losses.append(engine.module(row, rotary_bases=BASES, dropout_seed=None))
            ends.append(gather_full(engine))
            weights = {name: tensor.clone() for name, tensor in ends[-1].items()}
            engine.close()
        expected = tiny_model()
        expected.load_state_dict(weights, strict=False)
        by_hand = expected(row_of(50, 0), rotary_bases=BASES, dropout_seed=None)
        if not torch.allclose(losses[-1], by_hand, atol=1e-6):
            problems.append(f"ZeRO {stage}: the evaluation is not that of the weights")
        if torch.equal(losses[0], losses[-1]):
            problems.append(f"ZeRO {stage}: nothing was learnt in between")
        for name, tensor in ends[0].items():
            if not torch.equal(tensor, ends[1][name]):
                problems.append(f"ZeRO {stage}: {name} depends on the evaluations")
    return problems


def test_evaluation_between_steps_disturbs_nothing() -> None:
    assert run_ranks(evaluate_between_steps, 2, timeout=300) == {0: [], 1: []}
