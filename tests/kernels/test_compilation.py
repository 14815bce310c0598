"""Compilation of every Triton kernel, as the presets launch it, for A100 and H100 or H200.

No GPU is needed (compilation.py). The tensors are small but have the models' widths and dtypes, so
that compile-time arguments and specializations are those of training.
"""

import importlib.util

import pytest
import torch

from mmbert_kernels.support.dispatch import triton_interprets
from tests.kernels.case import Case, Sizes
from tests.kernels.cases import all_cases
from tests.kernels.comparison import as_tuple
from tests.kernels.compilation import Compiled, narrow_products

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or triton_interprets(),
    reason="Triton is not installed, or interprets",
)

# Hidden sizes and heads of the presets.
PRESETS = [
    Sizes(
        (32, *(0,) * 1023), width=width, inner=1152, heads=heads, head_size=64,
        vocabulary=256, masked=64,
    )
    for width, heads in ((384, 6), (768, 12), (1536, 24), (4096, 64))
]  # fmt: skip
CASES = [pytest.param(case, id=case.name) for case in all_cases() if case.triton_kernels]


@pytest.mark.parametrize("sizes", PRESETS, ids=[str(sizes.width) for sizes in PRESETS])
@pytest.mark.parametrize("case", CASES)
def test_every_kernel_compiles(compiled: Compiled, case: Case, sizes: Sizes) -> None:
    """With gradients of all outputs, and of the first output only."""
    problem = case.problem(sizes, torch.bfloat16)
    for used in (slice(None), slice(1)):
        outputs = as_tuple(problem.call(*problem.arguments))[used]
        if outputs[0].requires_grad:
            torch.autograd.backward(outputs, [torch.zeros_like(output) for output in outputs])
    assert {name for name, _ in compiled} == set(case.triton_kernels)


def test_narrow_products_are_found() -> None:
    code = """
      %at = tt.splat %x_stride : i32 -> tensor<8xi32>
      %good = arith.muli %rows64, %strides64 : tensor<8xi64>
      %bad = arith.muli %rows, %at : tensor<8xi32>
    """
    assert narrow_products(code) == ["%bad = arith.muli %rows, %at : tensor<8xi32>"]
