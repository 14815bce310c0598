"""Shares of parameters: they make up the whole exactly, and never mix the parts of a fused one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbert.parallel.parameter_spec import (
    InitialDistribution,
    ParameterDescription,
    assemble,
    balanced_range,
    describe,
    described_parameter,
    local_slice,
    name_parameters,
)
from mmbert.parallel.process_grid import TensorGroup

ONES = InitialDistribution("ones")


@st.composite
def descriptions(draw: st.DrawFn) -> tuple[ParameterDescription, int]:
    """A description and a group size that can hold it."""
    size = draw(st.integers(1, 5))
    unit = draw(st.integers(1, 4))
    other = draw(st.integers(1, 3))
    dimension = draw(st.integers(0, 1))
    must_divide = draw(st.booleans())
    count = draw(st.integers(1, 3))
    length = unit * size if must_divide else 1
    parts = tuple(draw(st.integers(1, 4)) * length for _ in range(count))
    shape = (sum(parts), other) if dimension == 0 else (other, sum(parts))
    description = ParameterDescription(
        full_shape=shape,
        initial=ONES,
        split_dimension=dimension,
        parts=parts,
        unit=unit,
        must_divide=must_divide,
    )
    return description, size


@given(descriptions())
@settings(max_examples=100, deadline=None)
def test_the_shares_make_up_the_whole(case: tuple[ParameterDescription, int]) -> None:
    description, size = case
    rows, columns = description.full_shape
    full = torch.arange(rows * columns, dtype=torch.float32).reshape(rows, columns)
    shares = [local_slice(full, description, rank, size) for rank in range(size)]
    for rank, share in enumerate(shares):
        assert tuple(share.shape) == description.local_shape(rank, size)
    assert sum(share.numel() for share in shares) == full.numel()
    assert torch.equal(assemble(shares, description), full)


@given(st.integers(0, 300), st.integers(1, 9), st.integers(1, 7))
def test_balanced_ranges_cover_in_order_and_differ_by_a_unit(
    length: int, size: int, unit: int
) -> None:
    ranges = [balanced_range(length, rank, size, unit=unit) for rank in range(size)]
    assert [start for start, _ in ranges] == [0] + [stop for _, stop in ranges[:-1]]
    assert ranges[-1][1] == length
    units = [-(-(stop - start) // unit) for start, stop in ranges]
    assert max(units) - min(units) <= 1


def test_a_replicated_parameter_is_whole_everywhere() -> None:
    description = ParameterDescription(full_shape=(3, 2), initial=ONES)
    full = torch.randn(3, 2)
    assert all(torch.equal(local_slice(full, description, rank, 4), full) for rank in range(4))
    assert torch.equal(assemble([full] * 4, description), full)
    assert description.ranges(2, 4) == [(0, 3)]


def test_query_key_and_value_of_a_head_stay_together() -> None:
    """Four heads of size 2 over two ranks: rank 1 holds heads 2 and 3 of each of the three."""
    description = ParameterDescription(
        full_shape=(24, 1), initial=ONES, split_dimension=0, parts=(8, 8, 8), unit=2
    )
    full = torch.arange(24.0)[:, None]
    assert local_slice(full, description, 1, 2).flatten().tolist() == [
        *(4, 5, 6, 7),
        *(12, 13, 14, 15),
        *(20, 21, 22, 23),
    ]


def test_a_share_that_must_divide_and_does_not_is_refused_by_name() -> None:
    description = ParameterDescription(
        full_shape=(12, 1), initial=ONES, name="layer.Wi", split_dimension=0, parts=(6, 6)
    )
    with pytest.raises(ValueError, match=r"layer\.Wi: 6 along dimension 0 .* 4 shares"):
        description.ranges(0, 4)


def test_an_uneven_vocabulary_gives_the_first_ranks_more() -> None:
    description = ParameterDescription(
        full_shape=(131,), initial=ONES, split_dimension=0, must_divide=False
    )
    assert [description.ranges(rank, 4)[0] for rank in range(4)] == [
        (0, 33),
        (33, 66),
        (66, 99),
        (99, 131),
    ]


def test_the_flags_that_deepspeed_reads_follow_the_description() -> None:
    split = ParameterDescription(full_shape=(4, 2), initial=ONES, split_dimension=0)
    whole = ParameterDescription(full_shape=(4,), initial=ONES)
    module = torch.nn.Module()
    module.split = described_parameter(split, TensorGroup.single())
    module.whole = described_parameter(whole, TensorGroup.single())
    for parameter, expected in ((module.split, True), (module.whole, False)):
        assert parameter.tensor_model_parallel is expected
        assert parameter.model_parallel is expected
    name_parameters(module)
    assert describe(module.split).name == "split"
    # Casting keeps the parameter object, and so what is known of it.
    module.to(torch.bfloat16)
    assert describe(module.whole).name == "whole"
