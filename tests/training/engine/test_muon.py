"""Muon and NorMuon on all ZeRO stages and grids, compared with the float64 formula.

The matrices of the model with prescribed gradients are cut by ZeRO and tensor parallelism; what
others' optimizers make of such cuts (SGD, AdamW, a matrix per shard, fused matrices as one) is told
apart at the end.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from mmbert.errors import UserError
from mmbert.training.engine import muon
from mmbert.training.engine.engine import Engine
from tests.support.muon_formula import MATRICES, PARTS, POLAR_EXPRESS, Formula, orthogonalized
from tests.support.prescribed_gradients import (
    SPECS,
    PrescribedBatch,
    gather_full,
    initial_weight,
    prescribed_engine,
    recipe,
    start,
)
from tests.support.ranks import run_ranks
from tests.support.step_settings import make_settings
from tests.training.engine import test_stable_adamw as stable

STEPS = 10
TOLERANCE = 1e-5
# Of the sum of the updates; Newton-Schulz in float32 amplifies the rounding of small singular
# values some 500 times. Seen: 2e-7.
UPDATE_TOLERANCE = 1e-5
STAGES = (1, 2, 3)
OPTIMIZERS = ("muon", "normuon")
# All stages on each; the rest of the twelve usual layouts, and wider ones, are long.
GRIDS = [
    (2, 2),
    *(
        pytest.param(*grid, marks=pytest.mark.long)
        for grid in ((1, 1), (1, 2), (2, 1), (1, 4), (4, 1))
    ),
]


@cache
def formula(optimizer: str, **settings: Any) -> dict[tuple[str, tuple[int, int]], Tensor]:
    """Return the matrices' weights after the prescribed steps, in float64."""
    found = {}
    factor, clipping = settings.pop("rate_factor", 1.0), settings.pop("clipping", None)
    for name, (first, stop) in PARTS:
        matrix = Formula(
            initial_weight(name)[first:stop], normalized=optimizer == "normuon", **settings
        )
        for step in range(STEPS):
            rate, decay = stable.schedule(step)
            peak = recipe().optimizer.learning_rate
            gradient = stable.full_gradient(name, step)[first:stop].double()
            if clipping is not None:
                gradient *= min(1.0, clipping / gradient_norm(step))
            matrix.step(gradient, factor * rate, decay * rate / peak)
        found[name, (first, stop)] = matrix.weight
    return found


def gradient_norm(step: int) -> float:
    """Return the norm of a step's whole gradient."""
    norms = [stable.full_gradient(name, step).double().norm() for name in SPECS]
    return float(torch.stack(norms).norm())


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def weights_on_grid(
    rank: int, world_size: int, tensor: int, runs: list[dict[str, Any]]
) -> list[tuple[dict[str, Any], int]]:
    """Return of each run the full weights after the steps, and this rank's calls of
    Newton-Schulz."""
    grid, results = start(rank, world_size, tensor), []
    for changes in runs:
        engine = prescribed_engine(grid, **changes)
        with pytest.MonkeyPatch.context() as patch:
            calls = count_calls(patch)
            clipped = stable.train(engine, STEPS)
        # A share of the tensors that are StableAdamW's, some of which it clips.
        tensors = STEPS * len(SPECS.keys() - MATRICES.keys())
        assert 0 < clipped < 1
        assert clipped * tensors == pytest.approx(round(clipped * tensors), abs=1e-4)
        full = {name: weight.numpy() for name, weight in gather_full(engine).items()}
        results.append((full, len(calls)))
        engine.close()
    return results


def count_calls(patch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Return a list that gets the shape of every matrix that is orthogonalized."""
    shapes: list[tuple[int, ...]] = []
    compute = muon.newton_schulz

    def counted(matrix: Tensor, *arguments: Any) -> Tensor:
        shapes.append(tuple(matrix.shape))
        return compute(matrix, *arguments)

    patch.setattr(muon, "newton_schulz", counted)
    return shapes


@pytest.mark.parametrize(("tensor", "data"), GRIDS)
def test_ten_steps_follow_the_formula(tensor: int, data: int) -> None:
    runs = [
        {"parallel__zero_stage": stage, "optimizer__name": name}
        for name in OPTIMIZERS
        for stage in STAGES
    ]
    results = run_ranks(weights_on_grid, tensor * data, tensor, runs, timeout=300)
    rest, _ = stable.float64_formula(STEPS)
    for number, run in enumerate(runs):
        weights, _ = results[0][number]
        wanted = formula(run["optimizer__name"])
        for (name, (first, stop)), weight in wanted.items():
            found = torch.from_numpy(weights[name])[first:stop]
            begin = initial_weight(name)[first:stop].double()
            error, of_update = relative(found, weight), relative(found - begin, weight - begin)
            print(f"{run} {tensor}×{data} {name}[{first}:]: {error:.1e}, update {of_update:.1e}")
            assert error < TOLERANCE, (run, name)
            assert of_update < UPDATE_TOLERANCE, (run, name)
        for name in SPECS.keys() - MATRICES.keys():
            assert relative(torch.from_numpy(weights[name]), rest[name]) < TOLERANCE, name
        # Every matrix once a step, on one rank: not once a rank, nor once a microbatch.
        assert sum(results[rank][number][1] for rank in results) == STEPS * len(PARTS)


FORMULAS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"name": "muon", "muon": {"nesterov": False, "momentum": 0.9}},
     {"nesterov": False, "momentum": 0.9}),
    ({"name": "muon", "muon": {"scale": "original"}}, {"original_scale": True}),
    ({"name": "normuon", "muon": {"beta2": 0.8}}, {"beta2": 0.8}),
    ({"name": "muon", "muon": {"coefficients": "polar_express"}},
     {"triples": POLAR_EXPRESS, "margin": 1.01}),
    # The update alone has the group's rate: decay is relative to the group's own peak.
    ({"name": "normuon", "group_learning_rates": {"matrices": 3e-2}}, {"rate_factor": 3.0}),
    # Some of the gradients, before they enter the average: clipped updates would be far smaller.
    ({"name": "muon", "gradient_clipping": 0.4}, {"clipping": 0.4}),
]  # fmt: skip


def test_the_recipes_formula_is_computed() -> None:
    usual = recipe().optimizer.model_dump(exclude_none=True)
    runs = [{"optimizer": usual | changes} for changes, _ in FORMULAS]
    results = run_ranks(weights_on_grid, 1, 1, runs)[0]
    for (weights, _), (changes, settings) in zip(results, FORMULAS, strict=True):
        wanted, other = formula(changes["name"], **settings), formula(changes["name"])
        for name, (first, stop) in PARTS:
            found = torch.from_numpy(weights[name])[first:stop]
            assert relative(found, wanted[name, (first, stop)]) < TOLERANCE, changes
            assert relative(found, other[name, (first, stop)]) > 10 * TOLERANCE, changes


def one_step(engine: Engine, gradients: dict[str, Tensor], rate: float, decay: float) -> Any:
    """Take a step whose full gradients data rank 0 has; the others' are zero."""
    if engine.grid.data.rank:
        gradients = {name: torch.zeros_like(given) for name, given in gradients.items()}
    engine.forward_backward(
        PrescribedBatch(gradients), make_settings(), dropout_seed=None, loss_scale=1.0
    )
    return engine.optimizer_step(make_settings(rate, decay))


def exact_gradients(step: int) -> dict[str, Tensor]:
    """Return gradients that bfloat16 holds exactly."""
    return {name: stable.full_gradient(name, step).bfloat16().float() for name in SPECS}


def bfloat16_weights(
    rank: int, world_size: int, tensor: int, stages: tuple[int, ...]
) -> list[dict[str, Any]]:
    grid, results = start(rank, world_size, tensor), []
    for name in OPTIMIZERS:
        for stage in stages:
            engine = prescribed_engine(
                grid, precision="bfloat16", parallel__zero_stage=stage, optimizer__name=name
            )
            for step in range(3):
                assert one_step(engine, exact_gradients(step), 1e-2, 0.1).finite
            full = gather_full(engine)
            results.append({name: full[name].numpy() for name in MATRICES})
            engine.close()
    return results


# Of the sum of three updates in bfloat16, which Newton-Schulz amplifies; seen: up to 3.5e-2.
BFLOAT16_TOLERANCE = 6e-2


@cache
def bfloat16_alone() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = run_ranks(bfloat16_weights, 1, 1, (1,))[0]
    return found


def test_in_bfloat16_the_deviation_from_float64_is_bounded() -> None:
    for optimizer, weights in zip(OPTIMIZERS, bfloat16_alone(), strict=True):
        for name, (first, stop) in PARTS:
            matrix = Formula(initial_weight(name)[first:stop], normalized=optimizer == "normuon")
            for step in range(3):
                matrix.step(exact_gradients(step)[name][first:stop], 1e-2, 0.1)
            begin = initial_weight(name)[first:stop].double()
            found = torch.from_numpy(weights[name])[first:stop]
            error = relative(found - begin * 0.9**3, matrix.weight - begin * 0.9**3)
            print(f"{optimizer} {name}[{first}:]: {error:.1e}")
            assert 1e-3 < error < BFLOAT16_TOLERANCE


@pytest.mark.parametrize(
    ("tensor", "data"),
    [
        (2, 2),
        *(pytest.param(*g, marks=pytest.mark.long) for g in ((1, 2), (2, 1), (1, 4), (4, 1))),
    ],
)
def test_in_bfloat16_every_grid_has_the_same_bits(tensor: int, data: int) -> None:
    found = run_ranks(bfloat16_weights, tensor * data, tensor, STAGES, timeout=300)[0]
    for number, weights in enumerate(found):
        for name, alone in bfloat16_alone()[number // len(STAGES)].items():
            assert (weights[name] == alone).all(), (OPTIMIZERS[number // len(STAGES)], name)


def updates_on_grid(
    rank: int, world_size: int, tensor: int, runs: list[tuple[str, float]]
) -> list[dict[str, Any]]:
    """Return each matrix's update in a step at rate 1e-2 without decay, of (optimizer, scale of
    the gradients)."""
    grid, results = start(rank, world_size, tensor), []
    for optimizer, scale in runs:
        engine = prescribed_engine(grid, optimizer__name=optimizer)
        gradients = {n: given * scale for n, given in exact_gradients(0).items()}
        one_step(engine, gradients, 1e-2, 0.0)
        full = gather_full(engine)
        results.append({name: (initial_weight(name) - full[name]).numpy() for name in MATRICES})
        engine.close()
    return results


@cache
def updates() -> dict[tuple[str, float], dict[str, Any]]:
    runs = [(optimizer, scale) for optimizer in OPTIMIZERS for scale in (1.0, 1000.0)]
    return dict(zip(runs, run_ranks(updates_on_grid, 2, 2, runs)[0], strict=True))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_updates_are_as_large_as_the_rate_says_whatever_the_gradient(optimizer: str) -> None:
    """NorMuon's root mean square is exactly 0.2 of the rate; Muon's is that of singular values
    between 0.7 and 1.2 at most, and less of a matrix with small ones."""
    one, thousand = (updates()[optimizer, scale] for scale in (1.0, 1000.0))
    for name, (first, stop) in PARTS:
        update, other = (torch.from_numpy(u[name])[first:stop] for u in (one, thousand))
        assert relative(other, update) < 1e-3, name
        ratio = float(update.double().square().mean().sqrt()) / 1e-2
        print(f"{optimizer} {name}[{first}:]: RMS / rate {ratio:.4f}")
        if optimizer == "normuon":
            assert ratio == pytest.approx(0.2, rel=1e-4)
        else:
            assert 0.1 < ratio < 0.2 * 1.25


# What others' optimizers have computed instead: of a gradient, the update's direction.
WRONG: dict[str, Callable[[str, Tensor], Tensor]] = {
    "SGD": lambda _, g: g,
    "AdamW": lambda _, g: g.sign(),
    "a matrix per shard": lambda name, g: torch.cat(
        [
            orthogonalized(shard)
            for shard in g.chunk(2, dim=1 if name in ("out.weight", "down.weight") else 0)
        ],
        dim=1 if name in ("out.weight", "down.weight") else 0,
    ),
}


def test_the_update_is_none_of_the_usual_mistakes() -> None:
    found = updates()["muon", 1.0]
    for name, (first, stop) in PARTS:
        update = torch.from_numpy(found[name])[first:stop].double()
        gradient = exact_gradients(0)[name][first:stop].double()
        right = orthogonalized(gradient)
        # A difference of weights a hundred times as large, rounded to float32.
        assert relative(direction(update), direction(right)) < 1e-4
        for mistake, wrong in WRONG.items():
            assert relative(direction(update), direction(wrong(name, gradient))) > 0.1, mistake
    for name in ("qkv.weight", "gate.weight"):
        fused = orthogonalized(exact_gradients(0)[name])
        update = torch.from_numpy(found[name]).double()
        assert relative(direction(update), direction(fused)) > 0.1, "fused matrices as one"


def direction(update: Tensor) -> Tensor:
    return update.double() / update.double().norm()


def all_states(engine: Engine) -> dict[str, Any]:
    found = {
        f"{fragment.name}/{state}": tensor.clone().numpy()
        for fragment in engine.fragments()
        for state, tensor in fragment.states.items()
    }
    rows = {f"{r.spec.name}/{r.start}": r.values.clone().numpy() for r in engine.row_states()}
    return found | rows


def states_around_a_skipped_step(rank: int, world_size: int) -> list[dict[str, Any]]:
    engine = prescribed_engine(start(rank, world_size, 1), optimizer__name="normuon")
    one_step(engine, exact_gradients(0), 1e-2, 0.1)
    found = [all_states(engine)]
    broken = exact_gradients(1)
    broken["qkv.weight"][3, 4] = float("inf")
    assert not one_step(engine, broken, 1e-2, 0.1).finite
    found.append(all_states(engine))
    one_step(engine, exact_gradients(2), 1e-2, 0.1)
    return [*found, all_states(engine)]


def test_a_skipped_step_leaves_averages_and_rows() -> None:
    for before, after, later in run_ranks(states_around_a_skipped_step, 2).values():
        assert any("row" in name or name.endswith("/0") for name in before)
        assert all((after[name] == values).all() for name, values in before.items())
        assert not any((later[name] == values).all() for name, values in before.items())


def weights_without_gradient(rank: int, world_size: int) -> dict[str, dict[str, Any]]:
    found = {}
    for name in OPTIMIZERS:
        engine = prescribed_engine(start(rank, world_size, 1), optimizer__name=name)
        gradients = {name: torch.zeros(spec.full_shape) for name, spec in SPECS.items()}
        gradients["dense.weight"] = exact_gradients(0)["dense.weight"]
        gradients["dense.weight"][5] = 0
        for _ in range(2):
            one_step(engine, gradients, 1e-2, 0.1)
        found[name] = {n: w.numpy() for n, w in gather_full(engine).items()}
        engine.close()
    return found


def test_no_gradient_changes_nothing_but_the_decay() -> None:
    """Neither of a whole matrix nor of a row, as at the start of a run with zeros in a weight."""
    for weights in run_ranks(weights_without_gradient, 1)[0].values():
        for name, (first, stop) in PARTS:
            found = torch.from_numpy(weights[name])[first:stop]
            kept = initial_weight(name)[first:stop] * 0.9 * 0.9
            if name == "dense.weight":
                assert found.isfinite().all()
                torch.testing.assert_close(found[5], kept[5], rtol=1e-6, atol=0)
                assert relative(found, kept) > 1e-3
            else:
                torch.testing.assert_close(found, kept, rtol=1e-6, atol=0)


def engine_without_matrices(rank: int, world_size: int) -> str:
    grid = start(rank, world_size, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.support.prescribed_gradients.SPECS", {
            name: spec for name, spec in SPECS.items() if name not in MATRICES
        })  # fmt: skip
        with pytest.raises(UserError, match="group 'matrices' of the model's parameters is empty"):
            prescribed_engine(grid, optimizer__name="muon")
    return "refused"


def test_a_model_without_matrices_is_refused() -> None:
    assert run_ranks(engine_without_matrices, 1)[0] == "refused"
