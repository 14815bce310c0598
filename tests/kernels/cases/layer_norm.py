"""Layer norm: plain, prenorm, and fused with residual addition and dropout."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

import mmbert_kernels as kernels
from mmbert_kernels.norms.dropout import keep_mask
from tests.kernels.case import Benchmark, Case, Function, Problem, Sizes, normal

EPS = 1e-5
KERNELS = ("_forward_kernel", "_backward_kernel")
FUNCTIONS = ("_AddLayerNorm", "_PrenormLayerNorm", "_LayerNorm")
SHAPES = tuple(
    Sizes((rows,), width=width) for rows, width in ((1, 8), (13, 96), (50, 768), (7, 1000))
)


def formula(x: Tensor, weight: Tensor) -> Tensor:
    """Normalize x over its last dimension, in float64."""
    x, weight = x.double(), weight.double()
    centered = x - x.mean(dim=-1, keepdim=True)
    return centered / (centered.square().mean(dim=-1, keepdim=True) + EPS).sqrt() * weight


def norm(sizes: Sizes, dtype: torch.dtype) -> Problem:
    return Problem(
        (normal(sizes.tokens, sizes.width, dtype=dtype, scale=3, shift=1), weight(sizes, dtype)),
        lambda x, w: kernels.layer_norm(x, w, EPS),
        formula,
    )


def prenorm(sizes: Sizes, dtype: torch.dtype) -> Problem:
    return Problem(
        (normal(sizes.tokens, sizes.width, dtype=dtype, scale=3, shift=1), weight(sizes, dtype)),
        lambda x, w: kernels.prenorm_layer_norm(x, w, EPS),
        lambda x, w: (formula(x, w), x),
    )


def weight(sizes: Sizes, dtype: torch.dtype) -> Tensor:
    return normal(sizes.width, dtype=dtype)


def add_norm(sizes: Sizes, dtype: torch.dtype, dropout: kernels.Dropout | None = None) -> Problem:
    def added(x: Tensor, residual: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        if dropout is not None:
            keep = keep_mask(dropout, sizes.tokens, sizes.width, x.device)
            x = torch.where(keep, x, 0.0) * dropout.scale
        total = residual.double() + x.double()
        # The norm is computed from the sum rounded to the residual's dtype.
        total = total + (total.to(dtype).double() - total).detach()
        return formula(total, w), total

    return Problem(
        (
            normal(sizes.tokens, sizes.width, dtype=dtype),
            normal(sizes.tokens, sizes.width, dtype=dtype, scale=4),
            weight(sizes, dtype),
        ),
        lambda x, r, w: kernels.add_layer_norm(x, r, w, EPS, dropout),
        added,
    )


def benchmarks_of_norm(sizes: Sizes, dtype: torch.dtype) -> Iterator[Benchmark]:
    row = sizes.tokens * sizes.width * dtype.itemsize
    problem = norm(sizes, dtype)
    yield Benchmark(
        "layer norm",
        problem.arguments,
        problem.call,
        lambda x, w: functional.layer_norm(x, w.shape, w, None, EPS),
        2 * row,
        5 * row,
        public=liger_layer_norm(),
    )


def benchmarks_of_add_norm(sizes: Sizes, dtype: torch.dtype) -> Iterator[Benchmark]:
    row = sizes.tokens * sizes.width * dtype.itemsize
    problem = add_norm(sizes, dtype)
    yield Benchmark(
        "add + layer norm",
        problem.arguments,
        problem.call,
        lambda x, r, w: (functional.layer_norm(x + r, w.shape, w, None, EPS), x + r),
        4 * row,
        8 * row,
    )
    dropped = add_norm(sizes, dtype, kernels.Dropout(0.1, 21))
    yield Benchmark(
        "dropout + add + norm",
        dropped.arguments,
        dropped.call,
        eager_dropout_add_norm,
        4 * row,
        9 * row,
    )


def eager_dropout_add_norm(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    """Compute dropout, addition and norm by three PyTorch operations."""
    total = residual + functional.dropout(x, 0.1)
    return functional.layer_norm(total, weight.shape, weight, None, EPS), total


def liger_layer_norm() -> dict[str, Function]:
    """Return Liger's layer norm, which has a bias, if installed."""
    try:
        from liger_kernel.ops.layer_norm import LigerLayerNormFunction
    except ImportError:
        return {}
    return {"liger": lambda x, w: LigerLayerNormFunction.apply(x, w, torch.zeros_like(w), EPS)}


CASES = (
    Case(
        "layer_norm",
        norm,
        SHAPES,
        triton_kernels=KERNELS,
        trace_names=FUNCTIONS,
        benchmarks=benchmarks_of_norm,
    ),
    Case("layer_norm-prenorm", prenorm, (Sizes((37,), width=96),), triton_kernels=KERNELS),
    Case(
        "layer_norm-add",
        add_norm,
        (Sizes((37,), width=96),),
        triton_kernels=KERNELS,
        benchmarks=benchmarks_of_add_norm,
    ),
    Case(
        "layer_norm-dropout",
        lambda sizes, dtype: add_norm(sizes, dtype, kernels.Dropout(0.1, 5, 11)),
        tuple(Sizes((rows,), width=width) for rows, width in ((37, 200), (3, 1000), (50, 384))),
        triton_kernels=KERNELS,
    ),
)
