"""Shards of parameters: they form the full tensor exactly and keep fused parts apart."""

from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbert.model.config import EncoderConfig
from mmbert.model.modernbert import MaskedLanguageModel
from mmbert.parallel.parameter_spec import (
    InitialDistribution,
    ParameterSpec,
    balanced_range,
    empty_parameter,
    local_slice,
    name_parameters,
    spec_of,
)
from mmbert.parallel.process_grid import TensorGroup
from tests.support.assembling import assemble

ONES = InitialDistribution("ones")


@st.composite
def specs(draw: st.DrawFn) -> tuple[ParameterSpec, int]:
    """Draw a spec and a group size that it can be sharded over."""
    size = draw(st.integers(1, 5))
    granularity = draw(st.integers(1, 4))
    other = draw(st.integers(1, 3))
    dimension = draw(st.integers(0, 1))
    require_even = draw(st.booleans())
    count = draw(st.integers(1, 3))
    length = granularity * size if require_even else 1
    fused_sizes = tuple(draw(st.integers(1, 4)) * length for _ in range(count))
    shape = (sum(fused_sizes), other) if dimension == 0 else (other, sum(fused_sizes))
    spec = ParameterSpec(
        full_shape=shape,
        initial=ONES,
        split_dimension=dimension,
        fused_sizes=fused_sizes,
        granularity=granularity,
        require_even=require_even,
    )
    return spec, size


@given(specs())
@settings(max_examples=100, deadline=None)
def test_the_shares_make_up_the_whole(case: tuple[ParameterSpec, int]) -> None:
    spec, size = case
    rows, columns = spec.full_shape
    full = torch.arange(rows * columns, dtype=torch.float32).reshape(rows, columns)
    shards = [local_slice(full, spec, rank, size) for rank in range(size)]
    for rank, share in enumerate(shards):
        assert tuple(share.shape) == spec.local_shape(rank, size)
    assert sum(share.numel() for share in shards) == full.numel()
    assert torch.equal(assemble(shards, spec), full)


@given(st.integers(0, 300), st.integers(1, 9), st.integers(1, 7))
def test_balanced_ranges_cover_in_order_and_differ_by_a_unit(
    length: int, size: int, granularity: int
) -> None:
    ranges = [balanced_range(length, rank, size, granularity=granularity) for rank in range(size)]
    assert [start for start, _ in ranges] == [0] + [stop for _, stop in ranges[:-1]]
    assert ranges[-1][1] == length
    units = [-(-(stop - start) // granularity) for start, stop in ranges]
    assert max(units) - min(units) <= 1


def test_a_replicated_parameter_is_whole_everywhere() -> None:
    spec = ParameterSpec(full_shape=(3, 2), initial=ONES)
    full = torch.randn(3, 2)
    assert all(torch.equal(local_slice(full, spec, rank, 4), full) for rank in range(4))
    assert torch.equal(assemble([full] * 4, spec), full)
    assert spec.ranges(2, 4) == [(0, 3)]


def test_query_key_and_value_of_a_head_stay_together() -> None:
    """With four heads of size 2 over two ranks, rank 1 holds heads 2 and 3 of each of the three."""
    spec = ParameterSpec(
        full_shape=(24, 1), initial=ONES, split_dimension=0, fused_sizes=(8, 8, 8), granularity=2
    )
    full = torch.arange(24.0)[:, None]
    assert local_slice(full, spec, 1, 2).flatten().tolist() == [
        *(4, 5, 6, 7),
        *(12, 13, 14, 15),
        *(20, 21, 22, 23),
    ]


def test_groups_and_fused_matrices_of_mmbert_base() -> None:
    """22 layers with query, key, value, two outputs, gate and up, and the head's dense layer."""
    config = EncoderConfig(
        vocab_size=256_000,
        hidden_size=768,
        intermediate_size=1152,
        num_hidden_layers=22,
        num_attention_heads=12,
    )
    with torch.device("meta"):
        model = MaskedLanguageModel(config, TensorGroup.single(), sequence_parallel=False)
    by_group: dict[str, list[ParameterSpec]] = {"matrices": [], "embedding": [], "rest": []}
    for parameter in model.parameters():
        by_group[spec_of(parameter).group].append(spec_of(parameter))
    matrices = [
        (stop - start, spec.full_shape[1])
        for spec in by_group["matrices"]
        for start, stop in spec.matrix_rows
    ]
    assert len(matrices) == 22 * 7 + 1
    assert sum(prod(shape) for shape in matrices) == 110_886_912
    assert [spec.name for spec in by_group["embedding"]] == [
        "model.embeddings.tok_embeddings.weight"
    ]
    assert all(len(spec.full_shape) == 1 for spec in by_group["rest"])
    assert set(matrices) == {(768, 768), (1152, 768), (768, 1152)}


def test_a_share_that_must_divide_and_does_not_is_refused_by_name() -> None:
    spec = ParameterSpec(
        full_shape=(12, 1), initial=ONES, name="layer.Wi", split_dimension=0, fused_sizes=(6, 6)
    )
    with pytest.raises(ValueError, match=r"layer\.Wi: 6 along dimension 0 .* 4 shards"):
        spec.ranges(0, 4)


def test_an_uneven_vocabulary_gives_the_first_ranks_more() -> None:
    spec = ParameterSpec(full_shape=(131,), initial=ONES, split_dimension=0, require_even=False)
    assert [spec.ranges(rank, 4)[0] for rank in range(4)] == [
        (0, 33),
        (33, 66),
        (66, 99),
        (99, 131),
    ]


def test_the_flags_that_deepspeed_reads_follow_the_description() -> None:
    split = ParameterSpec(full_shape=(4, 2), initial=ONES, split_dimension=0)
    whole = ParameterSpec(full_shape=(4,), initial=ONES)
    module = torch.nn.Module()
    module.split = empty_parameter(split, TensorGroup.single())
    module.whole = empty_parameter(whole, TensorGroup.single())
    for parameter, expected in ((module.split, True), (module.whole, False)):
        assert parameter.tensor_model_parallel is expected
        assert parameter.model_parallel is expected
    name_parameters(module)
    assert spec_of(module.split).name == "split"
    # A cast keeps the parameter object and therefore its spec.
    module.to(torch.bfloat16)
    assert spec_of(module.whole).name == "whole"
