"""Estimated communication against the collectives of a real engine."""

import pytest

from mmbert.planner import count_parameters, find_gpu
from mmbert.planner.communication import step_communication
from mmbert.recipe import ModelSettings, parse_recipe
from tests.planner.ranks import RECIPE, VOCABULARY, bytes_sent_in_a_step
from tests.support.ranks import run_ranks


def test_gradients_and_weights_are_sent_as_often_as_planned() -> None:
    """bfloat16, two data ranks, two rows each: all-reduce per step, per row, reduce-scatter."""
    sent = run_ranks(bytes_sent_in_a_step, 2, (1, 2, 3), timeout=300)[0]
    model = parse_recipe(RECIPE).model
    for zero_stage, (gradients, weights) in sent.items():
        planned = step_communication(
            model, find_gpu("h100"), rows_per_rank=2, row_tokens=64, masked_tokens=10, tensor=1,
            local_parameters=count_parameters(model, VOCABULARY).total, data=2,
            zero_stage=zero_stage, compute_bytes=2,
        )  # fmt: skip
        assert gradients == pytest.approx(planned.gradient_bytes, rel=0.02), zero_stage
        if zero_stage < 3:
            assert weights == pytest.approx(planned.weight_bytes, rel=0.01), zero_stage
        else:  # the estimate is an upper bound: some weights stay resident
            assert 0.5 * planned.weight_bytes < weights <= planned.weight_bytes


@pytest.mark.parametrize(
    ("tensor", "data", "data_speed", "tensor_speed"),
    [
        (1, 7, 450e9, 450e9),
        (1, 8, 450e9, 450e9),  # a full node uses its own links
        (1, 9, 400e9, 450e9),  # one GPU more: eight network cards of 50 GB/s per node
        (1, 16, 400e9, 450e9),
        (2, 4, 450e9, 450e9),
        (2, 8, 200e9, 450e9),  # the rings of two groups share the cards
        (8, 1, 450e9, 450e9),
        (8, 2, 50e9, 450e9),
        (16, 1, 50e9, 50e9),  # a tensor group larger than a node
    ],
)
def test_what_leaves_the_node_and_what_does_not(
    tensor: int, data: int, data_speed: float, tensor_speed: float
) -> None:
    """H100: 450 GB/s within a node of eight, one network card of 50 GB/s per GPU."""
    planned = step_communication(
        ModelSettings.model_validate({"preset": "base"}), find_gpu("h100"), rows_per_rank=2,
        row_tokens=49_152, masked_tokens=14_746, tensor=tensor, data=data,
        local_parameters=10**8, zero_stage=1, compute_bytes=2,
    )  # fmt: skip
    assert planned.gradient_seconds == pytest.approx(planned.gradient_bytes / data_speed)
    assert planned.weight_seconds == pytest.approx(planned.weight_bytes / data_speed)
    assert planned.tensor_seconds == pytest.approx(planned.tensor_bytes / tensor_speed)
    assert (planned.gradient_bytes > 0, planned.tensor_bytes > 0) == (data > 1, tensor > 1)
