"""StableAdamW on flat partitions against the formula tensor by tensor."""

import pytest
import torch

from mmbert_kernels import (
    TensorSpans,
    debiased_beta,
    stable_adamw_apply,
    stable_adamw_sums,
    update_rms,
)
from tests.kernels import formulas

SETTINGS = {"betas": (0.9, 0.95), "eps": 1e-8}


def run_steps(
    cuts: tuple[int, ...], gradients: list[torch.Tensor], start: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Three tensors of 5, 3000 and 70,000 elements in flat partitions cut at `cuts`."""
    ends = (5, 3005, 73005)
    bounds = list(zip((0, *cuts), (*cuts, start.numel()), strict=True))
    parts = [
        {
            "p": start[a:b].clone(),
            "m": torch.zeros_like(start[a:b]),
            "v": torch.zeros_like(start[a:b]),
        }
        for a, b in bounds
    ]
    rms = []
    for step, gradient in enumerate(gradients, start=1):
        span_lists, sums = [], torch.zeros(3, 2, dtype=torch.float64, device=start.device)
        for (a, b), part in zip(bounds, parts, strict=True):
            inside = [
                min(max(end, a), b) - a for end in (0, *ends)
            ]  # empty where a tensor is elsewhere
            spans = TensorSpans(tuple(inside[:-1]), tuple(inside[1:]))
            span_lists.append(spans)
            part["g"] = gradient[a:b].clone()
            sums += stable_adamw_sums(part["g"], part["v"], spans, step=step, **SETTINGS)
        for part, spans in zip(parts, span_lists, strict=True):
            stable_adamw_apply(
                *(part[name] for name in "pgmv"),
                spans,
                sums,
                step=step,
                learning_rate=3e-3,
                peak_learning_rate=6e-3,
                weight_decay=torch.tensor([0.0, 0.02, 0.02], device=start.device),
                **SETTINGS,
            )
        rms.append(update_rms(sums))
    return torch.cat([part["p"] for part in parts]), rms


def spiking_gradients() -> list[torch.Tensor]:
    """Ten steps; at the eighth, the second tensor's gradient is 50 times the usual."""
    generator = torch.Generator().manual_seed(3)
    gradients = [torch.randn(73005, generator=generator) * 0.01 for _ in range(10)]
    gradients[7][5:3005] *= 50
    return gradients


def test_steps_follow_the_formula() -> None:
    start = torch.randn(73005, generator=torch.Generator().manual_seed(1))
    gradients = spiking_gradients()
    computed, rms = run_steps((), gradients, start)
    check_steps(computed, rms, gradients, start)


def check_steps(
    computed: torch.Tensor,
    rms: list[torch.Tensor],
    gradients: list[torch.Tensor],
    start: torch.Tensor,
) -> None:
    """Assert that parameters and RMS are those of the formula, tensor by tensor."""
    for index, (first, last) in enumerate(((0, 5), (5, 3005), (3005, 73005))):
        p = start[first:last].double()
        m, v = torch.zeros_like(p), torch.zeros_like(p)
        for step, gradient in enumerate(gradients, start=1):
            p, m, v, true_rms = formulas.stable_adamw(
                p,
                gradient[first:last],
                m,
                v,
                step=step,
                learning_rate=3e-3,
                peak_learning_rate=6e-3,
                weight_decay=0.0 if index == 0 else 0.02,
                **SETTINGS,
            )
            assert rms[step - 1][index].item() == pytest.approx(true_rms, rel=1e-5)
        torch.testing.assert_close(computed[first:last].double(), p, rtol=1e-5, atol=1e-6)


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
    """ZeRO cuts elsewhere on the next tensor rank, whose copy must stay the same to the bit."""
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
        weight_decay=torch.tensor([0.1]),
        **SETTINGS,
    )
    torch.testing.assert_close(p, torch.full((8,), 0.95))


def test_the_first_pass_changes_nothing_and_what_lies_in_no_segment_is_left_alone() -> None:
    check_padding(torch.device("cpu"))


def check_padding(device: torch.device) -> None:
    """Only [2, 4) is a span."""
    p, g, m, v = (torch.full((8,), value, device=device) for value in (1.0, 1.0, 5.0, 5.0))
    spans = TensorSpans((2,), (4,))
    sums = stable_adamw_sums(g, v, spans, step=1, **SETTINGS)
    for tensor, value in ((p, 1.0), (g, 1.0), (m, 5.0), (v, 5.0)):
        assert (tensor == value).all()
    stable_adamw_apply(
        p,
        g,
        m,
        v,
        spans,
        sums,
        step=1,
        learning_rate=1e-3,
        peak_learning_rate=1e-3,
        weight_decay=torch.zeros(1, device=device),
        **SETTINGS,
    )
    assert (g == 1.0).all()
    for tensor, value in ((p, 1.0), (m, 5.0), (v, 5.0)):
        assert (tensor == value).tolist() == [True, True, False, False, True, True, True, True]


def check_no_elements(device: torch.device) -> None:
    """TensorSpans without elements, and a partition without any."""
    for spans, size in ((TensorSpans((0, 3, 3), (3, 3, 5)), 5), (TensorSpans((0,), (0,)), 0)):
        p, g, m, v = torch.ones(4, size, device=device).unbind()
        sums = stable_adamw_sums(g, v, spans, step=2, **SETTINGS)
        assert sums[:, 1].tolist() == [
            float(end - start) for start, end in zip(spans.starts, spans.ends, strict=True)
        ]
        stable_adamw_apply(
            p,
            g,
            m,
            v,
            spans,
            sums,
            step=2,
            learning_rate=1e-3,
            peak_learning_rate=1e-3,
            weight_decay=torch.zeros(len(spans), device=device),
            **SETTINGS,
        )
        assert p.isfinite().all()


def test_no_elements() -> None:
    check_no_elements(torch.device("cpu"))


def test_what_is_not_a_flat_float32_partition_is_refused() -> None:
    spans, good = TensorSpans((0,), (4,)), torch.zeros(4)
    for bad in (torch.zeros(8)[::2], torch.zeros(2, 2), torch.zeros(4).double(), torch.zeros(5)):
        with pytest.raises(ValueError, match=r"contiguous float32|differ in length"):
            stable_adamw_sums(good, bad, spans, step=1, **SETTINGS)


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
