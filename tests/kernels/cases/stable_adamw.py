"""A step of StableAdamW on a flat partition."""

import torch
from torch import Tensor

import mmbert_kernels as kernels
from tests.kernels.case import Case, Problem, Sizes

SETTINGS = {"betas": (0.9, 0.95), "eps": 1e-8, "step": 7}
RATES = {"learning_rate": 3e-3, "peak_learning_rate": 6e-3}
DECAY = 0.02
FACTOR = 0.75


def formula(
    parameter: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    betas: tuple[float, float],
    step: int,
    eps: float,
    learning_rate: float,
    peak_learning_rate: float,
    rate_factor: float,
    weight_decay: float,
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Return one tensor's (parameter, exp_avg, exp_avg_sq, RMS) after a step.

    Uses Adam's biased averages M with the usual correction, m = M / (1 - beta^t), from which the
    debiased form follows.
    """
    parameter, gradient = parameter.double(), gradient.double()
    moments = []
    for beta, old, new in zip(
        betas, (exp_avg, exp_avg_sq), (gradient, gradient.square()), strict=True
    ):
        biased = beta * old.double() * (1 - beta ** (step - 1)) + (1 - beta) * new
        moments.append(biased / (1 - beta**step))
    m, v = moments
    rms = (gradient.square() / v.clamp(min=eps**2)).mean().sqrt().item()
    rate = learning_rate / max(1.0, rms)
    parameter = parameter * (1 - rate / peak_learning_rate * weight_decay)
    return parameter - rate_factor * rate * m / (v.sqrt() + eps), m, v, rms


def problem(sizes: Sizes, _: torch.dtype) -> Problem:
    """Create a partition with tensors as large as the documents; always float32."""
    ends = torch.tensor((0, *sizes.lengths), device="cpu").cumsum(0).tolist()
    spans = kernels.TensorSpans(tuple(ends[:-1]), tuple(ends[1:]))

    def step(*flats: Tensor) -> tuple[Tensor, ...]:
        p, g, m, v = (flat.clone() for flat in flats)
        sums = kernels.stable_adamw_sums(g, v, spans, **SETTINGS)
        decay = torch.full((len(spans),), DECAY, device=p.device)
        factors = torch.full((len(spans),), FACTOR, dtype=torch.float64, device=p.device)
        given = {"rate_factors": factors, "weight_decay": decay, **SETTINGS, **RATES}
        kernels.stable_adamw_apply(p, g, m, v, spans, sums, **given)
        return p, m, v

    def true(*flats: Tensor) -> tuple[Tensor, ...]:
        of_tensors = [
            formula(*parts, rate_factor=FACTOR, weight_decay=DECAY, **SETTINGS, **RATES)[:3]
            for parts in zip(*(flat.split(sizes.lengths) for flat in flats), strict=True)
        ]
        p, m, v = (torch.cat(parts) for parts in zip(*of_tensors, strict=True))
        return p, m, v

    p, g, m, v = torch.randn(4, sizes.tokens)
    return Problem((p, g, m, v.square()), step, true)


CASES = (
    Case(
        "stable_adamw",
        problem,
        (Sizes((5, 3000, 700)),),
        any_layout=False,
        triton_kernels=("_sums_kernel", "_span_sums_kernel", "_apply_kernel"),
        trace_names=("Optimizer.step#",),
    ),
)
