"""Muon in the plan: share of a step, memory and checkpoints, by hand and against an engine."""

import io
from functools import cache

import pytest
from rich.console import Console

from mmbert.model.config import encoder_config
from mmbert.parallel.matrix_routing import matrices_of
from mmbert.planner import Estimate, count_parameters, estimate, find_gpu, render
from mmbert.planner.matrix_exchange import RoutingCost, _specs
from mmbert.recipe import load_recipe, parse_recipe
from tests.planner.ranks import RECIPE, VOCABULARY, bytes_after_backward
from tests.support.environment import ROOT
from tests.support.ranks import run_ranks

# The layouts of docs/results.md, "Plan for base on H100s", with 4,718,592 tokens a step.
LAYOUTS = {
    8: (),
    64: (
        "batch.row_tokens=24576", "batch.rows=192", "batch.quantum=64",
        "batch.growth.from_rows=64", "phases.extension.rows=1536", "phases.decay.rows=1536",
    ),
    512: (
        "batch.row_tokens=9216", "batch.rows=512", "batch.quantum=512", "batch.growth=null",
        "phases.extension.rows=4096", "phases.decay.rows=4096",
    ),
}  # fmt: skip
MATRICES, ROWS, TOTAL = 110_886_912, 135_936, 307_786_240
"""Of base: elements and rows of all matrices, and all parameters."""


@cache
def planned(gpus: int, optimizer: str, *overrides: str, mfu: float = 0.25) -> Estimate:
    """Return the plan of base in the layout for `gpus`."""
    settings = (f"optimizer.name={optimizer}", *LAYOUTS[gpus], *overrides)
    return estimate(load_recipe("mmbert-base", settings), gpus=gpus, mfu=mfu)


@pytest.mark.parametrize("mfu", [0.25, 0.4])
@pytest.mark.parametrize("gpus", LAYOUTS)
def test_normuon_takes_less_than_three_percent_of_a_step(gpus: int, mfu: float) -> None:
    """FLOPs, bytes and messages; a higher utilization leaves a shorter step."""
    found = planned(gpus, "normuon", mfu=mfu)
    assert found.matrix_exchange is not None
    flops = found.matrix_exchange.flops
    for phase in found.phases:
        share = phase.matrix_seconds / phase.step_seconds
        print(f"{gpus} GPUs at {mfu:.0%}: {phase.steps.name} {share:.2%}")
        assert 0 < share < 0.03
        of_step = phase.flops.total * found.recipe.batch.row_tokens * phase.steps.stages[-1].rows
        assert flops < 0.001 * of_step


@pytest.mark.parametrize("gpus", LAYOUTS)
def test_the_time_of_a_step_grows_by_that_of_the_matrices_alone(gpus: int) -> None:
    for plain, muon in zip(
        planned(gpus, "stable_adamw").phases, planned(gpus, "normuon").phases, strict=True
    ):
        assert plain.matrix_seconds == 0
        grown = muon.step_seconds - plain.step_seconds
        assert grown == pytest.approx(muon.matrix_seconds, rel=1e-6)
        assert muon.flops == plain.flops  # of the model, whatever the optimizer


def test_the_time_is_that_of_the_busiest_rank() -> None:
    """By hand: FLOPs at the utilization, 15 products a matrix, bytes both ways, messages."""
    cost = RoutingCost(
        matrices=9, most_on_an_owner=2, owners=6, flops=9 * 10**9, most_flops=2 * 10**9,
        bytes_sent=0, bytes_returned=0, most_from_a_holder=3_000_000, most_into_an_owner=1_000_000,
        most_from_an_owner=1_500_000, most_into_a_holder=4_000_000, pairs=10, messages=20,
        most_messages=7, least_held=0, most_rows=0,
    )  # fmt: skip
    gpu = find_gpu("h100")
    fixed = 2e9 / (989e12 * 0.25) + 2 * 15 * 10e-6 + 7 * 20e-6
    assert cost.seconds(gpu, gpus=8, mfu=0.25) == pytest.approx(fixed + 7e6 / 450e9)
    assert cost.seconds(gpu, gpus=16, mfu=0.25) == pytest.approx(fixed + 7e6 / 50e9)


def test_elements_and_rows_of_matrices_are_the_models() -> None:
    recipe = load_recipe("mmbert-base")
    parameters = count_parameters(recipe.model, 256_000)
    found = matrices_of(_specs(encoder_config(recipe.model, 256_000)), 1)
    assert parameters.total == TOTAL
    assert parameters.matrices == sum(matrix.rows * matrix.columns for matrix in found) == MATRICES
    assert parameters.matrix_rows == sum(matrix.rows for matrix in found) == ROWS


def test_a_checkpoint_has_no_squares_of_matrices() -> None:
    sizes = {
        name: planned(8, name).checkpoint_bytes for name in ("stable_adamw", "muon", "normuon")
    }
    assert sizes["stable_adamw"] == planned(8, "adamw").checkpoint_bytes == 12 * TOTAL
    assert sizes["muon"] == 12 * TOTAL - 4 * MATRICES
    assert sizes["normuon"] == sizes["muon"] + 4 * ROWS


def test_the_rank_with_the_fewest_matrices_needs_the_most_memory() -> None:
    """Under ZeRO 1 and 2 the first of eight partitions is all embedding; ZeRO 3 cuts evenly."""
    held = {
        name: {
            layout.zero_stage: layout.memory.optimizer
            for layout in planned(8, name).layouts
            if layout.tensor == 1 and layout.memory is not None
        }
        for name in ("stable_adamw", "muon", "normuon")
    }
    saved = {stage: held["stable_adamw"][stage] - held["muon"][stage] for stage in (1, 2, 3)}
    assert saved[1] == saved[2] == 0
    assert saved[3] == pytest.approx(4 * MATRICES / 8, rel=1e-6)
    most = held["normuon"][1] - held["muon"][1]
    assert 4 * ROWS / 8 <= most < 1.2 * 4 * ROWS / 8


@pytest.mark.long
def test_states_are_what_an_engine_holds() -> None:
    """On two data ranks in bfloat16; rank 0 has no matrices but under ZeRO 3."""
    name, stages = "optimizer.name=normuon", (1, 2, 3)
    measured = run_ranks(bytes_after_backward, 2, stages, name, timeout=300)[0]
    recipe = parse_recipe(RECIPE, [name])
    parameters = count_parameters(recipe.model, VOCABULARY)
    for stage in stages:
        layout = parse_recipe(RECIPE, [name, f"parallel.zero_stage={stage}"])
        layout = layout.model_copy(
            update={"model": layout.model.model_copy(update={"vocab_size": VOCABULARY})}
        )
        (memory,) = (
            found.memory
            for found in estimate(layout, gpus=2).layouts
            if found.chosen and found.memory is not None
        )
        held = memory.states
        if stage == 3:  # see test_memory.py
            held += 4 * parameters.total - 2 * parameters.embedding
        print(stage, held, measured[stage])
        assert held == pytest.approx(measured[stage], rel=0.01 if stage < 3 else 0.03)


def test_the_table_is_there_for_muon_alone() -> None:
    shown = {}
    for name in ("stable_adamw", "normuon"):
        console = Console(width=160, record=True, file=io.StringIO())
        console.print(render(planned(512, name)))
        shown[name] = console.export_text()
    assert "matrices" not in shown["stable_adamw"]
    assert (
        "Updates of matrices by normuon in a step: 155 matrices with 155 owners"
        in (shown["normuon"])
    )
    for expected in ("2,405.3", "18.1", "221.8", "678"):
        assert expected in shown["normuon"]


def test_the_table_of_the_documentation_is_the_plan() -> None:
    page = (ROOT / "docs" / "planner.md").read_text(encoding="utf-8")
    for gpus in LAYOUTS:
        found = planned(gpus, "normuon")
        cost, phase = found.matrix_exchange, found.phases[0]
        assert cost is not None
        row = (
            f"| {gpus} | {cost.most_on_an_owner} | {cost.most_flops / 1e9:.1f}"
            f" | {cost.most_from_a_holder / 1e6:.1f}, {cost.most_from_an_owner / 1e6:.1f}"
            f" | {cost.most_messages}, {cost.messages} | {phase.matrix_seconds * 1e3:.1f} ms"
            f" | {phase.matrix_seconds / phase.step_seconds:.2%} |"
        )
        assert row in page, row
