"""Benchmarks of tests/kernels/cases/ at the sizes of a step of base, for bench_kernels.py."""

from collections.abc import Iterator

import torch

from tests.kernels.case import Benchmark, Sizes
from tests.kernels.cases import all_cases


def benchmarks(
    device: torch.device, dtype: torch.dtype, tokens: int, vocabulary: int
) -> Iterator[tuple[str, Benchmark]]:
    """Yield every benchmark with its operation, the name of the file of cases."""
    context = min(1024, tokens)
    lengths = [context] * (tokens // context) + [tokens % context] * (tokens % context > 0)
    sizes = Sizes(
        tuple(lengths),
        width=768,
        inner=1152,
        heads=12,
        head_size=64,
        vocabulary=vocabulary,
        masked=round(0.3 * tokens),
    )
    for case in all_cases():
        if case.benchmarks is not None:
            with device:
                made = tuple(case.benchmarks(sizes, dtype))
            yield from ((case.operation, benchmark) for benchmark in made)
