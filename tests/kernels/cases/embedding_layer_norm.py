"""Embedding look-up with layer norm."""

from collections.abc import Iterator

import torch
from torch.nn import functional

import mmbert_kernels as kernels
from tests.kernels.case import Benchmark, Case, Problem, Sizes, normal
from tests.kernels.cases import layer_norm
from tests.kernels.cases.layer_norm import EPS


def problem(sizes: Sizes, dtype: torch.dtype) -> Problem:
    ids = torch.randint(0, sizes.vocabulary, (sizes.tokens,))
    ids[: sizes.tokens * 13 // 30] = (
        7  # a frequent token, with a gradient that spans several blocks
    )
    return Problem(
        (
            ids,
            normal(sizes.vocabulary, sizes.width, dtype=dtype),
            normal(sizes.width, dtype=dtype),
        ),
        lambda ids, table, w: kernels.embedding_layer_norm(ids, table, w, EPS),
        lambda ids, table, w: layer_norm.formula(table[ids], w),
    )


def benchmarks(sizes: Sizes, dtype: torch.dtype) -> Iterator[Benchmark]:
    row = sizes.tokens * sizes.width * dtype.itemsize
    made = problem(sizes, dtype)
    yield Benchmark(
        "embedding + norm",
        (torch.randint(0, sizes.vocabulary, (sizes.tokens,)), *made.arguments[1:]),
        made.call,
        lambda ids, table, w: functional.layer_norm(
            functional.embedding(ids, table), w.shape, w, None, EPS
        ),
        2 * row,
        4 * row + sizes.vocabulary * sizes.width * dtype.itemsize,
    )


CASES = (
    Case(
        "embedding_layer_norm",
        problem,
        (Sizes((300,), vocabulary=50),),
        triton_kernels=(
            "_forward_kernel",
            "_backward_kernel",
            "_block_sums_kernel",
            "_add_parts_kernel",
        ),
        trace_names=("_EmbeddingLayerNorm",),
        benchmarks=benchmarks,
    ),
)
