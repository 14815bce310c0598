"""The real encoder on tensor × data 2 × 2 under ZeRO 1, 2 and 3 is the model of one process.

In float32, with dropout on. The reference is one process: plain autograd for the first step's
gradients, the engine for the ten steps. Then each of the mistakes that such a program invites is
made on purpose, and must show.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.distributed as dist

from distributed import run_ranks
from mmbert.model.batch import PackedBatch
from mmbert.parallel.grid import ProcessGrid
from mmbert.training.engine import Engine
from tests.model.tiny_models import BASES, random_row, tiny_config, tiny_model
from tests.training.prescribed import gather_full, recipe, start

STEPS, ROWS = 10, 4
Array = npt.NDArray[np.float32]


def row_of(step: int, number: int) -> PackedBatch:
    """Row `number` of a step; the rows have different numbers of masked tokens."""
    row = random_row(seed=100 * step + number, row_index=step * ROWS + number)
    weights = row.weights.clone()
    weights[: 3 * number] = 0
    return replace(row, weights=weights)


def masked_tokens(step: int) -> float:
    return sum(float(row_of(step, number).weights.sum()) for number in range(ROWS))


def engine_of(grid: ProcessGrid, stage: int, sequence: bool, mistake: str | None) -> Engine:
    model = tiny_model(group=grid.tensor, sequence_parallel=sequence)
    if mistake == "partial gradients not summed":
        for hook in model.gradient_hooks:
            hook.remove()
    if mistake == "flag of a split parameter removed":
        weight = model.model.layers[1].mlp.Wi.weight
        weight.tensor_model_parallel = weight.model_parallel = False
    if mistake == "gate and up halves mixed":
        full = tiny_model().model.layers[1].mlp.Wi.weight
        weight = model.model.layers[1].mlp.Wi.weight
        with torch.no_grad():
            weight.copy_(full.chunk(grid.tensor.size)[grid.tensor.rank])
    settings = recipe(
        parallel__tensor=grid.tensor.size, parallel__zero_stage=stage, optimizer__weight_decay=0.01
    )
    return Engine(model, settings, grid, torch.device("cpu"))


def train(engine: Engine, steps: int, mistake: str | None = None) -> dict[str, Any]:
    """Losses by row, loss and norm of every step, first gradients and last weights, full."""
    grid = engine.grid
    losses, norms, row_losses, gradients = [], [], {}, {}
    for step in range(steps):
        total = torch.zeros((), dtype=torch.float64)
        for number in range(grid.data.rank, ROWS, grid.data.size):
            row = row_of(step, number)
            if mistake == "one rank's masks shifted" and grid.rank == grid.world_size - 1:
                row = replace(row, masked_positions=(row.masked_positions + 1) % 128)
            scale = 1 / masked_tokens(step)
            if mistake == "gradients averaged over data ranks":
                scale /= grid.data.size
            values = engine.forward_backward(
                row,
                rotary_bases=BASES,
                dropout_seed=7,
                loss_scale=scale,
                last=step % 2 == 0 and number + grid.data.size >= ROWS,
            )
            total += values.double().sum() / masked_tokens(step)
            if step == 0:
                row_losses[number] = values.numpy()
        dist.all_reduce(total, group=grid.data.group)
        losses.append(float(total))
        report = engine.optimizer_step(1e-3, 0.01)
        norms.append(float(report.gradient_norm))
        if step == 0:
            gradients = {n: t.numpy() for n, t in gather_full(engine, "exp_avg").items()}
        gather_full(engine)  # asserts that replicated weights are equal, bit for bit
    weights = {name: tensor.numpy() for name, tensor in gather_full(engine).items()}
    rows = [None] * grid.world_size
    dist.all_gather_object(rows, row_losses)
    merged = {number: values for part in rows for number, values in part.items()}
    return {
        "losses": losses,
        "norms": norms,
        "rows": merged,
        "gradients": gradients,
        "weights": weights,
    }


def on_grid(
    rank: int, world_size: int, tensor: int, cases: Sequence[tuple[int, bool]], steps: int
) -> list[dict[str, Any]]:
    results = []
    for stage, sequence in cases:
        grid = start(rank, world_size, tensor)
        engine = engine_of(grid, stage, sequence, None)
        results.append(train(engine, steps))
        engine.close()
    return results


def plain_gradients() -> dict[str, Array]:
    """The first step's gradients by autograd alone."""
    model = tiny_model()
    for number in range(ROWS):
        losses = model(row_of(0, number), rotary_bases=BASES, dropout_seed=7)
        (losses.sum() / masked_tokens(0)).backward()
    return {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}


def relative(value: Array, reference: Array) -> float:
    return float(np.linalg.norm(value - reference) / np.linalg.norm(reference))


@pytest.fixture(scope="module")
def one_process() -> dict[str, Any]:
    return run_ranks(on_grid, 1, 1, [(1, False)], STEPS)[0][0]


def differences(result: dict[str, Any], reference: dict[str, Any]) -> dict[str, float]:
    """The largest relative difference of each kind."""
    gradients, weights = plain_gradients(), reference["weights"]
    rows = reference["rows"]
    return {
        "row losses": max(relative(result["rows"][n], rows[n]) for n in range(ROWS)),
        "loss": max(
            abs(a / b - 1) for a, b in zip(result["losses"], reference["losses"], strict=False)
        ),
        "norm": abs(result["norms"][0] / reference["norms"][0] - 1),
        "gradients": max(relative(result["gradients"][n], g) for n, g in gradients.items()),
        "weights": max(relative(result["weights"][n], w) for n, w in weights.items()),
    }


LIMITS = {"row losses": 1e-5, "loss": 1e-4, "norm": 1e-5, "gradients": 1e-5, "weights": 1e-4}
CASES = [(1, False), (1, True), (2, True), (3, False), (3, True)]


def test_two_by_two_is_one_process_under_every_stage(one_process: dict[str, Any]) -> None:
    reference = differences(one_process, one_process)
    assert reference["gradients"] < LIMITS["gradients"], "the engine's against autograd's"
    results = run_ranks(on_grid, 4, 2, CASES, STEPS, timeout=300)
    for (stage, sequence), result in zip(CASES, results[0], strict=True):
        found = differences(result, one_process)
        shown = ", ".join(f"{kind} {value:.1e}" for kind, value in found.items())
        print(f"ZeRO {stage}, sequence parallel {sequence}: {shown}")
        for kind, limit in LIMITS.items():
            assert found[kind] < limit, (stage, sequence, kind, found)


MISTAKES = {
    "none": None,
    "partial gradients not summed": "gradients",
    "flag of a split parameter removed": "norm",
    "gradients averaged over data ranks": "gradients",
    "gate and up halves mixed": "row losses",
    "one rank's masks shifted": "row losses",
}


def with_mistakes(rank: int, world_size: int) -> dict[str, Any]:
    """One step with each mistake: the result, or that replicated weights came apart."""
    results: dict[str, Any] = {}
    for mistake in MISTAKES:
        grid = start(rank, world_size, 2)
        engine = engine_of(grid, 2, True, mistake)
        try:
            results[mistake] = train(engine, 1, mistake)
        except AssertionError as error:
            results[mistake] = f"replicated weights differ: {error}"
        engine.close()
    return results


def test_every_mistake_shows(one_process: dict[str, Any]) -> None:
    results = run_ranks(with_mistakes, 4, timeout=300)[0]
    for mistake, kind in MISTAKES.items():
        result = results[mistake]
        if isinstance(result, str):  # the check of replicated weights itself has noticed
            assert mistake == "partial gradients not summed", result
            continue
        found = differences(result, one_process)
        kinds = ("row losses", "norm", "gradients")  # after a single step
        noticed = {name for name in kinds if found[name] > LIMITS[name]}
        assert (kind in noticed) if kind else not noticed, (mistake, found)


def with_recomputation(rank: int, world_size: int) -> list[list[float]]:
    """Losses and norms of two steps in bfloat16, per ZeRO stage and way of recomputing."""
    figures = []
    for stage in (1, 2, 3):
        for recompute in ("none", "selective", "full"):
            grid = start(rank, world_size, 1)
            model = tiny_model(tiny_config(recompute=recompute), grid.tensor)
            settings = recipe(parallel__zero_stage=stage, precision="bfloat16")
            engine = Engine(model, settings, grid, torch.device("cpu"))
            result = train(engine, 2)
            figures.append([*result["losses"], *result["norms"]])
            engine.close()
    return figures


def test_recomputation_changes_nothing_under_any_stage() -> None:
    """ZeRO 3 has to gather the weights again for it; the figures are equal bit for bit."""
    figures = run_ranks(with_recomputation, 2, timeout=300)[0]
    for number in range(0, 9, 3):
        assert figures[number] == figures[number + 1] == figures[number + 2], figures
    np.testing.assert_allclose(figures, [figures[0]] * 9, rtol=1e-5)


def evaluate_between_steps(rank: int, world_size: int) -> list[str]:
    """Two runs, one with evaluations of the module between its steps; what differs."""
    problems = []
    for stage in (1, 2, 3):
        ends, losses = [], []
        for evaluate in (False, True):
            engine = engine_of(start(rank, world_size, 1), stage, False, None)
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
