"""Gather of rows."""

from collections.abc import Iterator

import torch
from torch import Tensor

import mmbert_kernels as kernels
from tests.kernels.case import Benchmark, Case, Problem, Sizes, normal

KERNELS = ("_block_sums_kernel", "_add_parts_kernel")


def repeated(sizes: Sizes, dtype: torch.dtype) -> Problem:
    rows = max(sizes.tokens, 4)
    positions = torch.randint(0, rows, (sizes.masked,))
    third = sizes.masked // 3
    positions[third : 2 * third] = 0  # like unused slots
    positions[positions == 17] = 16  # a row that is never gathered
    return Problem(
        (normal(rows, sizes.width, dtype=dtype), positions),
        kernels.gather_rows,
        lambda x, positions: x[positions],
    )


def ascending(sizes: Sizes, dtype: torch.dtype) -> Problem:
    rows = max(sizes.tokens, sizes.masked)
    positions = torch.randperm(rows)[: sizes.masked].sort().values
    unfilled = sizes.masked // 5
    if unfilled:
        positions[-unfilled:] = positions[-unfilled - 1].clone()
    return Problem(
        (normal(rows, sizes.width, dtype=dtype), positions),
        gather_ascending,
        lambda x, positions: x[positions],
    )


def gather_ascending(x: Tensor, positions: Tensor) -> Tensor:
    return kernels.gather_rows(x, positions, ascending=True)


def benchmarks(sizes: Sizes, dtype: torch.dtype) -> Iterator[Benchmark]:
    width = sizes.width * dtype.itemsize
    positions = torch.randperm(sizes.tokens)[: sizes.masked].sort().values
    yield Benchmark(
        "gather rows",
        (normal(sizes.tokens, sizes.width, dtype=dtype), positions),
        gather_ascending,
        lambda x, positions: x[positions],
        2 * sizes.masked * width,
        (3 * sizes.masked + sizes.tokens) * width,
    )


CASES = (
    Case(
        "gather_rows",
        repeated,
        (Sizes((40,), width=150, masked=150),),
        lambda dtype: 8,
        triton_kernels=KERNELS,
        trace_names=("_GatherRows",),
        benchmarks=benchmarks,
    ),
    Case(
        "gather_rows-ascending",
        ascending,
        (Sizes((300,), width=150, masked=90),),
        triton_kernels=KERNELS,
    ),
)
