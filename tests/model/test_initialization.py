"""Initial weights: the original's distributions, and equal full tensors at every grid."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbert.model import initialization
from mmbert.model.initialization import initial_values, initialize_parameters
from mmbert.model.modernbert import MaskedLanguageModel
from mmbert.parallel.parameter_spec import (
    InitialDistribution,
    ParameterSpec,
    spec_of,
)
from mmbert.parallel.process_grid import TensorGroup
from tests.support.assembling import assemble
from tests.support.tiny_models import tiny_config


def fresh_model(**changes: object) -> MaskedLanguageModel:
    model = MaskedLanguageModel(
        tiny_config(**changes), TensorGroup.single(), sequence_parallel=False
    )
    initialize_parameters(model, seed=21)
    return model


@pytest.mark.parametrize("size", [2, 4])
def test_the_shares_of_any_group_make_up_the_same_full_weights(size: int) -> None:
    for name, parameter in fresh_model().named_parameters():
        spec = spec_of(parameter)
        shards = [initial_values(spec, 21, rank, size) for rank in range(size)]
        assert torch.equal(assemble(shards, spec), parameter), name


@given(st.integers(1, 7), st.integers(1, 4), st.integers(1, 40), st.integers(1, 3))
@settings(deadline=None, max_examples=60)
def test_blocks_of_rows_do_not_show(block: int, size: int, rows: int, parts: int) -> None:
    """The full tensor does not depend on the rows that a rank draws, nor on the block size."""
    spec = ParameterSpec(
        full_shape=(rows * parts, 3),
        initial=InitialDistribution("truncated_normal", 0.5),
        name="table",
        split_dimension=0,
        fused_sizes=(rows,) * parts,
        require_even=False,
    )
    before = initialization.BLOCK_ROWS
    initialization.BLOCK_ROWS = block
    try:
        full = initial_values(spec, 3)
        shards = [initial_values(spec, 3, rank, size) for rank in range(size)]
    finally:
        initialization.BLOCK_ROWS = before
    assert torch.equal(assemble(shards, spec), full)


def test_a_rank_draws_only_the_blocks_that_hold_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    original = initialization._draw_block

    def spy(spec: ParameterSpec, seed: int, block: int) -> torch.Tensor:
        drawn.append(block)
        return original(spec, seed, block)

    monkeypatch.setattr(initialization, "_draw_block", spy)
    monkeypatch.setattr(initialization, "BLOCK_ROWS", 10)
    spec = ParameterSpec(
        full_shape=(100, 2),
        initial=InitialDistribution("uniform", 1.0),
        split_dimension=0,
        require_even=False,
    )
    assert initial_values(spec, 1, 1, 4).shape == (25, 2)
    assert drawn == [2, 3, 4]


def test_the_distributions_are_megatrons_as_the_original_used_them() -> None:
    """Standard deviations by kind of weight; truncation at two of them leaves 0.88 times."""
    layers = 4
    model = fresh_model(hidden_size=256, intermediate_size=384, vocab_size=5000)
    output = 0.02 / math.sqrt(2 * layers)
    for name, parameter in model.named_parameters():
        values = parameter.detach().double()
        if "norm" in name:
            assert (values == 1).all(), name
            continue
        if name == "decoder.bias":
            bound = 1 / math.sqrt(256)
            assert values.abs().max() <= bound
            assert values.std() == pytest.approx(bound / math.sqrt(3), rel=0.03)
            continue
        std = output if name.endswith("Wo.weight") else 0.02
        assert values.abs().max() <= 2 * std * (1 + 1e-6), name
        assert values.abs().max() > 1.98 * std, name
        assert values.std() == pytest.approx(0.8796 * std, rel=0.01), name
        assert abs(values.mean()) < 5 * std / math.sqrt(values.numel()), name


def test_the_cut_normal_has_the_right_shape() -> None:
    spec = ParameterSpec(
        full_shape=(1000, 400), initial=InitialDistribution("truncated_normal", 1.0)
    )
    values = initial_values(spec, 5).flatten().double()
    points = torch.tensor([-1.9, -1.0, -0.3, 0.0, 0.7, 1.5], dtype=torch.float64)
    normal = torch.distributions.Normal(0.0, 1.0)
    tail = normal.cdf(torch.tensor(-2.0))
    expected = (normal.cdf(points) - tail) / (1 - 2 * tail)
    got = torch.stack([(values <= point).double().mean() for point in points])
    # Four standard errors of a proportion of 400,000 draws.
    assert (got - expected).abs().max() < 4 * 0.5 / math.sqrt(values.numel())


def test_no_two_parameters_or_blocks_or_seeds_start_alike() -> None:
    model = fresh_model()
    firsts = [p.flatten()[0].item() for n, p in model.named_parameters() if "norm" not in n]
    assert len(set(firsts)) == len(firsts)
    spec = ParameterSpec(
        full_shape=(2 * initialization.BLOCK_ROWS, 1),
        initial=InitialDistribution("uniform", 1.0),
        name="a",
    )
    values = initial_values(spec, 1).flatten()
    assert not torch.equal(values[: initialization.BLOCK_ROWS], values[initialization.BLOCK_ROWS :])
    assert not torch.equal(values, initial_values(spec, 2).flatten())


def test_the_first_weights_are_what_they_were() -> None:
    """Frozen numbers: a different generator or hash would change every run from its start."""
    weight = fresh_model().model.layers[0].attn.Wqkv.weight
    frozen = [-0.013801616, 0.000227608, 0.004843424]
    assert weight.flatten()[:3].tolist() == pytest.approx(frozen, abs=1e-8)


def test_parameters_may_have_another_dtype() -> None:
    model = fresh_model()
    half = MaskedLanguageModel(tiny_config(), TensorGroup.single(), sequence_parallel=False)
    half = half.to(torch.bfloat16)
    initialize_parameters(half, seed=21)
    for (name, full), rounded in zip(model.named_parameters(), half.parameters(), strict=True):
        assert torch.equal(full.to(torch.bfloat16), rounded), name
