"""docs/kernels.md: byte counts, floors and tolerances are those of the benchmarks and tests."""

import re

import torch

import mmbert_kernels
from tests.docs.blocks import blocks
from tests.kernels.case import Benchmark, Sizes
from tests.kernels.cases import all_cases
from tests.support.environment import ROOT

PAGE = ROOT / "docs" / "kernels.md"
TEXT = PAGE.read_text(encoding="utf-8")
TOKENS = 49_152
BASE = Sizes(
    (1024,) * 48, width=768, inner=1152, heads=12, head_size=64, vocabulary=256_000, masked=14_746
)
BANDWIDTH, FLOPS = 4.3e12, 790e12
"""As the page says; the defaults of bench_host."""


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the first table after a line that begins with `heading`."""
    lines = TEXT[TEXT.index(f"\n{heading}") + 1 :].splitlines()
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines[: next(n for n, line in enumerate(lines[2:], 2) if line[:1] != "|")][2:]
    ]


def all_benchmarks() -> dict[str, Benchmark]:
    """Return the benchmarks at base's sizes, on tensors without content."""
    with torch.device("meta"):
        cases = [case.benchmarks for case in all_cases() if case.benchmarks is not None]
        return {made.name: made for make in cases for made in make(BASE, torch.bfloat16)}


def test_traffic_and_floors_are_those_of_the_benchmarks() -> None:
    found = all_benchmarks()
    table = rows("| Benchmark |")
    names = {row[0].strip("`") for row in table}
    # a window costs the same in documents of any length
    assert names == set(found) - {"window 128 of 8192"}
    for name, _, forward, both, floor in table:
        made = found[name.strip("`")]
        assert forward == f"{made.forward_bytes / TOKENS:,.0f}", name
        assert both == f"{made.both_bytes / TOKENS:,.0f}", name
        seconds = max(made.both_bytes / BANDWIDTH, made.both_flops / FLOPS)
        assert floor == f"{1e6 * seconds:,.0f}", name


def test_the_rates_are_those_that_bench_host_assumes() -> None:
    source = ROOT / "tests" / "benchmarks" / "bench_host.py"
    defaults = re.findall(r'"--(?:bandwidth|flops)".*default=([\de.]+)', source.read_text())
    assert [float(value) for value in defaults] == [BANDWIDTH, FLOPS]


def test_tolerances_are_those_of_the_tests() -> None:
    stated = {
        name: tuple(int(cell.replace(",", "")) for cell in row[1:4])
        for row in rows("| Case |")
        for name in re.findall(r"`([\w-]+)`", row[0])
    }
    dtypes = (torch.float32, torch.float16, torch.bfloat16)
    assert stated == {case.name: tuple(map(case.roundings, dtypes)) for case in all_cases()}


def test_every_operation_is_described() -> None:
    functions = {name for row in rows("| Operation |") for name in re.findall(r"`(\w+)`", row[0])}
    helpers = {"Dropout", "TensorSpans", "backends", "computes_in_bfloat16", "debiased_beta"}
    helpers |= {
        "NEWTON_SCHULZ_STEPS",
        "NewtonSchulzSteps",
        "keep_freed_memory",
        "matmul",
        "nondeterministic_operations",
        "update_rms",
    }
    assert functions == set(mmbert_kernels.__all__) - helpers
    for row in rows("| Operation |"):
        (module,) = re.findall(r"`([\w/]+\.py)`", row[1])
        assert (ROOT / "kernels" / "mmbert_kernels" / module).is_file(), module
    assert blocks(PAGE)
