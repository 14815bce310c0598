"""StableAdamW on flat partitions, compared with the formula tensor by tensor."""

import pytest
import torch

from mmbert_kernels import (
    TensorSpans,
    debiased_beta,
    stable_adamw_apply,
    stable_adamw_sums,
)
from tests.kernels.stable_adamw.steps import (
    SETTINGS,
    check_no_elements,
    check_padding,
    check_squares_elsewhere,
    check_steps,
    run_steps,
    spiking_gradients,
)


def test_steps_follow_the_formula() -> None:
    start = torch.randn(73005, generator=torch.Generator().manual_seed(1))
    gradients = spiking_gradients()
    computed, rms = run_steps((), gradients, start)
    check_steps(computed, rms, gradients, start)


def test_a_spike_in_one_tensor_slows_that_tensor_alone() -> None:
    _, rms = run_steps((), spiking_gradients(), torch.zeros(73005))
    assert rms[0].tolist() == pytest.approx([1.0, 1.0, 1.0], abs=1e-5)
    assert rms[7][1] > 2.5
    assert rms[7][2] < 1.1


@pytest.mark.parametrize("cuts", [(1500,), (5, 40_000), (2, 3, 3005, 70_000)])
def test_where_the_partitions_are_cut_does_not_matter(cuts: tuple[int, ...]) -> None:
    start = torch.randn(73005, generator=torch.Generator().manual_seed(1))
    whole, _ = run_steps((), spiking_gradients(), start)
    cut, _ = run_steps(cuts, spiking_gradients(), start)
    torch.testing.assert_close(cut, whole, rtol=1e-6, atol=1e-7)


def test_an_elements_bits_do_not_depend_on_where_its_tensor_is_cut() -> None:
    """ZeRO splits differently on other tensor ranks, whose copies must stay bitwise equal."""
    given = torch.randn(4, 1003, generator=torch.Generator().manual_seed(2))
    given[3].square_()
    results = []
    for length in (1003, 500, 7):
        flats = given.clone()
        bounds = (*range(0, 1003, length), 1003)
        spans = TensorSpans(bounds[:-1], bounds[1:])
        stable_adamw_apply(
            *flats,
            spans,
            torch.ones(len(spans), 2, dtype=torch.float64),
            step=3,
            learning_rate=3e-3,
            peak_learning_rate=6e-3,
            rate_factors=torch.full((len(spans),), 0.3, dtype=torch.float64),
            weight_decay=torch.full((len(spans),), 0.02),
            **SETTINGS,
        )
        results.append(flats)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_a_zero_gradient_moves_nothing_but_the_decay() -> None:
    p, g, m, v = torch.ones(8), *torch.zeros(3, 8)
    spans = TensorSpans((0,), (8,))
    sums = stable_adamw_sums(g, v, spans, step=1, **SETTINGS)
    assert sums.tolist() == [[0.0, 8.0]]
    stable_adamw_apply(
        p,
        g,
        m,
        v,
        spans,
        sums,
        step=1,
        learning_rate=1e-3,
        peak_learning_rate=2e-3,
        rate_factors=torch.tensor([3.0], dtype=torch.float64),
        weight_decay=torch.tensor([0.1]),
        **SETTINGS,
    )
    torch.testing.assert_close(p, torch.full((8,), 0.95))


def test_a_factor_is_a_learning_rate_with_the_same_decay() -> None:
    """To the bit for a power of two: twice the rate, or the factor 2 at the same decay."""
    given = torch.randn(4, 1003, generator=torch.Generator().manual_seed(2))
    given[3].square_()
    results = []
    for rate, factor in ((6e-3, 1.0), (3e-3, 2.0)):
        flats = given.clone()
        stable_adamw_apply(
            *flats,
            TensorSpans((0,), (1003,)),
            torch.tensor([[4000.0, 1003.0]], dtype=torch.float64),
            step=3,
            learning_rate=rate,
            peak_learning_rate=2 * rate,
            rate_factors=torch.tensor([factor], dtype=torch.float64),
            weight_decay=torch.tensor([0.02]),
            **SETTINGS,
        )
        results.append(flats)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0][0], given[0])


def test_the_first_pass_changes_nothing_and_what_lies_in_no_segment_is_left_alone() -> None:
    check_padding(torch.device("cpu"))


def test_squares_may_lie_in_a_tensor_of_their_own() -> None:
    check_squares_elsewhere(torch.device("cpu"))
    squares = torch.ones(8)
    for wrong in (TensorSpans((1,), (5,)), TensorSpans((0,), (3,))):
        with pytest.raises(ValueError, match="in length, or in position modulo 4"):
            stable_adamw_sums(
                torch.ones(9), squares, TensorSpans((4,), (8,)), step=1, exp_avg_sq_spans=wrong,
                **SETTINGS,
            )  # fmt: skip


def test_no_elements() -> None:
    check_no_elements(torch.device("cpu"))


def test_what_is_not_a_flat_float32_partition_is_refused() -> None:
    spans, good = TensorSpans((0,), (4,)), torch.zeros(4)
    for bad in (torch.zeros(8)[::2], torch.zeros(2, 2), torch.zeros(4).double(), torch.zeros(5)):
        with pytest.raises(ValueError, match=r"contiguous float32|differ in length"):
            stable_adamw_sums(good, bad, spans, step=1, **SETTINGS)


def test_factors_must_be_one_for_each_span() -> None:
    flats, spans = torch.ones(4, 8), TensorSpans((0,), (8,))
    for wrong in (torch.ones(1), torch.ones(2, dtype=torch.float64)):
        with pytest.raises(ValueError, match=r"rate_factors must be float64 \[1\]"):
            stable_adamw_apply(
                *flats,
                spans,
                torch.ones(1, 2, dtype=torch.float64),
                step=1,
                learning_rate=1e-3,
                peak_learning_rate=2e-3,
                rate_factors=wrong,
                weight_decay=torch.zeros(1),
                **SETTINGS,
            )


def test_debiased_averages() -> None:
    assert debiased_beta(0.9, 1) == 0.0
    assert debiased_beta(0.9, 10**6) == pytest.approx(0.9)
    with pytest.raises(ValueError, match="counted from 1"):
        debiased_beta(0.9, 0)


def test_segments_must_be_in_order_and_inside() -> None:
    with pytest.raises(ValueError, match="in order"):
        TensorSpans((0, 3), (4, 6))
    with pytest.raises(ValueError, match="after the partition's 8"):
        stable_adamw_sums(*torch.zeros(2, 8), TensorSpans((0,), (9,)), step=1, **SETTINGS)
