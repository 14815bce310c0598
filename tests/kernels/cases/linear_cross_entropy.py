"""Cross-entropy of the vocabulary head."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import mmbert_kernels as kernels
from tests.kernels.case import Benchmark, Case, Function, Problem, Sizes, normal


def formula(
    hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, weights: Tensor
) -> Tensor:
    logits = hidden.double() @ weight.double().T + bias.double()
    ignored = (labels < 0) | (weights == 0)
    labels = labels.masked_fill(ignored, 0)
    chosen = logits[torch.arange(len(labels), device=labels.device), labels]
    losses = (logits.logsumexp(dim=-1) - chosen) * weights.double()
    return torch.where(ignored, torch.zeros_like(losses), losses)


def problem(sizes: Sizes, dtype: torch.dtype) -> Problem:
    labels = torch.randint(0, sizes.vocabulary, (sizes.masked,))
    weights = torch.rand(sizes.masked) + 0.5
    if sizes.masked > 9:
        weights[4], labels[4], labels[9] = 0.0, 10**6, -100
    return Problem(
        (
            normal(sizes.masked, sizes.width, dtype=dtype),
            normal(sizes.vocabulary, sizes.width, dtype=dtype),
            normal(sizes.vocabulary, dtype=dtype),
            labels,
            weights,
        ),
        lambda h, w, b, y, u: kernels.linear_cross_entropy(
            h, w, b, y, weights=u, chunk=sizes.chunk
        ),
        formula,
    )


def roundings(dtype: torch.dtype) -> float:
    """Return the tolerance: losses are float32, but the logits have the arguments' dtype."""
    return {torch.bfloat16: 2.0**16, torch.float16: 2.0**15}.get(dtype, 64)


def benchmarks(sizes: Sizes, dtype: torch.dtype) -> Iterator[Benchmark]:
    table = sizes.vocabulary * sizes.width * dtype.itemsize
    flops = 2.0 * sizes.masked * sizes.width * sizes.vocabulary
    yield Benchmark(
        "linear cross-entropy",
        (
            normal(sizes.masked, sizes.width, dtype=dtype),
            normal(sizes.vocabulary, sizes.width, dtype=dtype, scale=0.05),
            normal(sizes.vocabulary, dtype=dtype),
            torch.randint(0, sizes.vocabulary, (sizes.masked,)),
        ),
        kernels.linear_cross_entropy,
        eager,
        table,
        2 * table,
        flops,
        3 * flops,
        public=public(),
    )


def eager(hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
    """Compute the losses from all logits at once."""
    logits = functional.linear(hidden, weight, bias).float()
    return functional.cross_entropy(logits, labels, reduction="none")


def public() -> dict[str, Function]:
    """Return the installed ones of Liger's, Apple's cut cross-entropy and PyTorch's (from 2.13)."""
    found: dict[str, Function] = {}
    try:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        loss = LigerFusedLinearCrossEntropyLoss(reduction="sum")
        found["liger"] = lambda hidden, weight, bias, labels: loss(weight, hidden, labels, bias)
    except ImportError:
        pass
    try:
        from cut_cross_entropy import linear_cross_entropy as cut

        found["cut-cross-entropy"] = lambda hidden, weight, bias, labels: cut(
            hidden, weight, labels, bias=bias, reduction="sum"
        )
    except ImportError:
        pass
    by_torch: Any = getattr(functional, "linear_cross_entropy", None)
    if by_torch is not None:
        found["torch"] = lambda hidden, weight, bias, labels: by_torch(
            hidden, weight, labels, linear_bias=bias, reduction="sum"
        )
    return found


CASES = (
    Case(
        "linear_cross_entropy",
        problem,
        (
            *(
                Sizes((1,), width=16, vocabulary=101, masked=37, chunk=chunk)
                for chunk in (1, 10, 64)
            ),
            Sizes((1,), width=16, vocabulary=4097, masked=37, chunk=300),
            Sizes((1,), width=16, vocabulary=5000, masked=270),
        ),
        roundings,
        same_upstream=True,
        triton_kernels=("_statistics_kernel", "_gradient_kernel"),
        trace_names=("_LinearCrossEntropy",),
        benchmarks=benchmarks,
    ),
)
