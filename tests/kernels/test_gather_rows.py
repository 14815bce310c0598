"""Gather of rows on a CPU: repeated positions and sums in float32."""

import pytest
import torch

import mmbert_kernels as kernels
from tests.kernels.comparison import compare

DTYPES = (torch.float32, torch.bfloat16, torch.float64)
pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.mark.parametrize("dtype", DTYPES)
def test_gather_rows_adds_what_positions_share(dtype: torch.dtype) -> None:
    x = torch.randn(40, 24, dtype=dtype)
    positions = torch.tensor([0, 0, 39, 7, 0, 7, 12])
    compare(
        lambda x: kernels.gather_rows(x, positions),
        lambda x: x[positions],
        (x,),
        (torch.randn(7, 24),),
        roundings=8,
    )


def test_a_position_taken_a_thousand_times_gets_a_thousand_gradients() -> None:
    """In bfloat16, 256 + 1 is 256: the sum must be kept in float32."""
    x = torch.randn(3, 24, dtype=torch.bfloat16, requires_grad=True)
    kernels.gather_rows(x, torch.full((1000,), 1)).sum().backward()
    assert x.grad is not None
    assert x.grad[:, 0].tolist() == [0.0, 1000.0, 0.0]
