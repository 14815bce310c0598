"""Gated GELU."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

import mmbert_kernels as kernels
from tests.kernels.case import Benchmark, Case, Problem, Sizes, normal


def formula(x: Tensor) -> Tensor:
    activated, gate = x.double().chunk(2, dim=-1)
    return activated * (1 + torch.erf(activated / math.sqrt(2))) / 2 * gate


def problem(sizes: Sizes, dtype: torch.dtype) -> Problem:
    x = normal(sizes.tokens, 2 * sizes.inner, dtype=dtype, scale=2)
    return Problem((x,), kernels.geglu, formula)


def benchmarks(sizes: Sizes, dtype: torch.dtype) -> Iterator[Benchmark]:
    f, row = sizes.inner, sizes.tokens * sizes.inner * dtype.itemsize
    made = problem(sizes, dtype)
    yield Benchmark(
        "geglu",
        made.arguments,
        made.call,
        lambda x: functional.gelu(x[:, :f]) * x[:, f:],
        3 * row,
        8 * row,
    )


CASES = (
    Case(
        "geglu",
        problem,
        tuple(Sizes((19,), inner=inner) for inner in (8, 130, 1152)),
        roundings=lambda dtype: 16,
        triton_kernels=("_forward_kernel", "_backward_kernel"),
        trace_names=("_GeGLU",),
        benchmarks=benchmarks,
    ),
)
