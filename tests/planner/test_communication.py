"""The plan's traffic against what a real engine asks of the process group."""

import pytest

from distributed import run_ranks
from mmbert.planner import count_parameters, find_gpu
from mmbert.planner.communication import step_communication
from mmbert.recipe import parse_recipe
from tests.planner.ranks import RECIPE, VOCABULARY, bytes_sent_in_a_step


def test_gradients_and_weights_are_sent_as_often_as_planned() -> None:
    """bfloat16 on two data ranks, two rows each: all-reduced once a step, once a row, scattered."""
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
        else:  # the plan's is the most: some weights stay from row to row
            assert 0.5 * planned.weight_bytes < weights <= planned.weight_bytes
