"""Compilation of layer norm with dropout: one kernel for all rows of a training run."""

import importlib.util

import pytest

import mmbert_kernels as kernels
from mmbert_kernels.support.dispatch import triton_interprets
from tests.kernels.compilation import Compiled, tensor

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or triton_interprets(),
    reason="Triton is not installed, or interprets",
)


@pytest.mark.parametrize("width", [384, 768, 1536, 4096])
def test_layer_norm_after_dropout(compiled: Compiled, width: int) -> None:
    x, residual, weight = tensor(32, width), tensor(32, width), tensor(width)

    def run(first_token: int) -> None:
        dropout = kernels.Dropout(0.1, 21, first_token)
        normed, total = kernels.add_layer_norm(x, residual, weight, 1e-5, dropout)
        (normed + total).sum().backward()

    run(2**40)
    assert {name for name, _ in compiled} == {"_forward_kernel", "_backward_kernel"}
    kernels_for_one = {id(kernel) for _, kernel in compiled}
    for first_token in (0, 1, 16, 49_152, 3 * 10**12):
        run(first_token)
    assert {id(kernel) for _, kernel in compiled} == kernels_for_one, "compiled again by row"
