"""Matrix products on a CPU for every layout of the factors."""

import pytest
import torch

import mmbert_kernels as kernels
from tests.kernels.comparison import assert_close


@pytest.mark.parametrize("left_layout", ["plain", "transposed", "rows apart"])
@pytest.mark.parametrize("right_layout", ["plain", "transposed"])
@pytest.mark.parametrize("shape", [(300, 200, 100), (100, 200, 300), (3, 5, 7)])
@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
def test_product(
    shape: tuple[int, int, int],
    left_layout: str,
    right_layout: str,
    capability: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By MKL and by oneDNN, which is taken on processors with 512-bit vectors."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    rows, inner, columns = shape
    left = torch.randn(rows, inner)
    if left_layout == "transposed":
        left = torch.randn(inner, rows).t()
    elif left_layout == "rows apart":
        left = torch.randn(rows, 2 * inner)[:, :inner]
    right = torch.randn(inner, columns)
    if right_layout == "transposed":
        right = torch.randn(columns, inner).t()
    computed = kernels.matmul(left, right)
    assert computed.is_contiguous()
    assert_close("product", computed, left.double() @ right.double(), roundings=32)
