"""Steps of StableAdamW on flat partitions, and checks shared by the CPU's and Triton's tests."""

import pytest
import torch

from mmbert_kernels import TensorSpans, stable_adamw_apply, stable_adamw_sums, update_rms
from tests.kernels.cases import stable_adamw

SETTINGS = {"betas": (0.9, 0.95), "eps": 1e-8}
# Of the three tensors: learning rates over the optimizer's.
FACTORS = (0.3, 1.0, 2.5)


def run_steps(
    cuts: tuple[int, ...], gradients: list[torch.Tensor], start: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Train three tensors of 5, 3000 and 70,000 elements in flat partitions split at `cuts`."""
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
            ]  # empty if the tensor is in another partition
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
                rate_factors=torch.tensor(FACTORS, dtype=torch.float64, device=start.device),
                weight_decay=torch.tensor([0.0, 0.02, 0.02], device=start.device),
                **SETTINGS,
            )
        rms.append(update_rms(sums))
    return torch.cat([part["p"] for part in parts]), rms


def spiking_gradients() -> list[torch.Tensor]:
    """Return ten gradients; in the eighth, the second tensor's is 50 times the usual."""
    generator = torch.Generator().manual_seed(3)
    gradients = [torch.randn(73005, generator=generator) * 0.01 for _ in range(10)]
    gradients[7][5:3005] *= 50
    return gradients


def check_steps(
    computed: torch.Tensor,
    rms: list[torch.Tensor],
    gradients: list[torch.Tensor],
    start: torch.Tensor,
) -> None:
    """Assert that parameters and RMS match the formula, tensor by tensor."""
    for index, (first, last) in enumerate(((0, 5), (5, 3005), (3005, 73005))):
        p = start[first:last].double()
        m, v = torch.zeros_like(p), torch.zeros_like(p)
        for step, gradient in enumerate(gradients, start=1):
            p, m, v, true_rms = stable_adamw.formula(
                p,
                gradient[first:last],
                m,
                v,
                step=step,
                learning_rate=3e-3,
                peak_learning_rate=6e-3,
                rate_factor=FACTORS[index],
                weight_decay=0.0 if index == 0 else 0.02,
                **SETTINGS,
            )
            assert rms[step - 1][index].item() == pytest.approx(true_rms, rel=1e-5)
        torch.testing.assert_close(computed[first:last].double(), p, rtol=1e-5, atol=1e-6)


def check_padding(device: torch.device) -> None:
    """Assert that only [2, 4), the only span, changes."""
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
        rate_factors=torch.ones(1, dtype=torch.float64, device=device),
        weight_decay=torch.zeros(1, device=device),
        **SETTINGS,
    )
    assert (g == 1.0).all()
    for tensor, value in ((p, 1.0), (m, 5.0), (v, 5.0)):
        assert (tensor == value).tolist() == [True, True, False, False, True, True, True, True]


def check_no_elements(device: torch.device) -> None:
    """Assert that empty spans and an empty partition are handled."""
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
            rate_factors=torch.ones(len(spans), dtype=torch.float64, device=device),
            weight_decay=torch.zeros(len(spans), device=device),
            **SETTINGS,
        )
        assert p.isfinite().all()


def check_squares_elsewhere(device: torch.device) -> None:
    """Assert that v in a tensor of its own, without what lies between the spans, changes no bit."""
    generator = torch.Generator().manual_seed(5)
    flats = [torch.randn(20_001, generator=generator).to(device) for _ in range(3)]
    spans = TensorSpans((3, 17, 9001, 20_000), (10, 6000, 15_000, 20_001))
    compact = spans.compact()
    assert compact.size < 12_010
    squares = torch.rand(20_001, generator=generator).to(device)
    elsewhere = torch.full((compact.size,), 7.0, device=device)
    places = list(zip(spans.starts, spans.ends, compact.starts, compact.ends, strict=True))
    for start, end, first, last in places:
        assert (first - start) % 4 == 0
        elsewhere[first:last] = squares[start:end]
    results = []
    for v, others in ((squares, None), (elsewhere, compact)):
        p, g, m = (flat.clone() for flat in flats)
        sums = stable_adamw_sums(g, v, spans, step=3, exp_avg_sq_spans=others, **SETTINGS)
        torch.testing.assert_close(sums, results[0][2] if results else sums, rtol=1e-6, atol=0)
        stable_adamw_apply(
            *(p, g, m, v),
            spans,
            results[0][2] if results else sums,  # their order of summing may differ
            step=3,
            learning_rate=1e-3,
            peak_learning_rate=2e-3,
            rate_factors=torch.ones(4, dtype=torch.float64, device=device),
            weight_decay=torch.full((4,), 0.1, device=device),
            exp_avg_sq_spans=others,
            **SETTINGS,
        )
        results.append((p, m, sums))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    for start, end, first, last in places:
        assert torch.equal(elsewhere[first:last], squares[start:end])
    between = torch.ones(compact.size, dtype=torch.bool)
    for _, _, first, last in places:
        between[first:last] = False
    assert (elsewhere[between.to(device)] == 7.0).all()
