"""Estimated memory against that of a real engine."""

import pytest

from mmbert.model.activation_memory import activation_memory
from mmbert.model.config import encoder_config
from mmbert.planner import count_parameters, device_memory
from mmbert.planner.memory import DeviceMemory
from mmbert.recipe import parse_recipe
from tests.planner.ranks import RECIPE, VOCABULARY, bytes_after_backward
from tests.support.ranks import run_ranks


def planned(zero_stage: int, data: int, **changes: int) -> DeviceMemory:
    recipe = parse_recipe(RECIPE)
    sizes = {"row_tokens": 64, "masked_tokens": 10, "document_slots": 1, "tensor": 1} | changes
    return device_memory(
        encoder_config(recipe.model, VOCABULARY),
        count_parameters(recipe.model, VOCABULARY),
        data=data,
        sequence=False,
        zero_stage=zero_stage,
        compute_bytes=2,
        optimizer_bytes=recipe.optimizer.bytes_per_parameter,
        **sizes,
    )


def test_states_are_what_an_engine_holds() -> None:
    """bfloat16, two data ranks, ZeRO 1 to 3, between backward pass and step."""
    measured = run_ranks(bytes_after_backward, 2, (1, 2, 3), timeout=300)[0]
    model = parse_recipe(RECIPE).model
    parameters = count_parameters(model, VOCABULARY).total
    for zero_stage in (1, 2):
        assert planned(zero_stage, 2).states == pytest.approx(measured[zero_stage], rel=0.01)
    # ZeRO 3 keeps its gradient bucket, here as large as the model. The estimate includes the
    # gathered embedding, which is released at the end of the backward pass.
    embedding = 2 * VOCABULARY * encoder_config(model, VOCABULARY).hidden_size
    held = planned(3, 2).states - embedding + 4 * parameters
    assert held == pytest.approx(measured[3], rel=0.03)


def test_each_stage_spreads_what_it_should() -> None:
    one, two, three = (planned(stage, 8) for stage in (1, 2, 3))
    assert one.optimizer == two.optimizer == three.optimizer
    assert one.gradients == pytest.approx(8 * two.gradients, rel=1e-4)
    assert one.weights == two.weights > three.weights
    alone = planned(1, 1)
    assert alone.optimizer == pytest.approx(8 * one.optimizer, rel=1e-4)


def test_activations_are_the_models_own_formula() -> None:
    recipe = parse_recipe(RECIPE)
    config = encoder_config(recipe.model, VOCABULARY)
    sizes = {"row_tokens": 8192, "masked_tokens": 2000, "document_slots": 2000}
    passes = activation_memory(config, **sizes)
    memory = planned(2, 8, **sizes)
    assert memory.activations == passes.kept
    assert memory.activations + memory.working >= passes.peak
    # Attention's backward pass needs memory per document slot, empty or not.
    assert memory.working > planned(2, 8, **sizes | {"document_slots": 1000}).working


def test_the_step_needs_muons_messages_beside_the_reduction() -> None:
    """Unless the passes need more. Activations are freed by then."""
    plain, muon = planned(2, 2), planned(2, 2, exchange_bytes=10**9)
    assert muon.states == plain.states
    shard = muon.optimizer // parse_recipe(RECIPE).optimizer.bytes_per_parameter
    assert muon.activations + muon.working == 10**9 + 4 * shard
    assert planned(2, 2, exchange_bytes=1).working == plain.working
