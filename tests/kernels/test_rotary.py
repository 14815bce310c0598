"""Rotary position embedding on a CPU up to the longest context."""

import pytest
import torch

import mmbert_kernels as kernels
from tests.kernels.case import LENGTHS, cumulative
from tests.kernels.cases import rotary
from tests.kernels.comparison import compare

DTYPES = (torch.float32, torch.bfloat16, torch.float64)
TOKENS = sum(LENGTHS)
pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.mark.parametrize("base", [10_000.0, 160_000.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rotary(dtype: torch.dtype, base: float) -> None:
    qkv = torch.randn(TOKENS, 3, 2, 16, dtype=dtype)
    # Angles are always float32: at position 128 their rounding error is 128 times that at position
    # 1; in float64 the tables are the largest error.
    roundings = 64 * 2.0**29 if dtype == torch.float64 else 256 if dtype == torch.float32 else 2
    compare(
        lambda qkv: kernels.rotary(qkv, cumulative(LENGTHS, padding=3), base),
        lambda qkv: rotary.formula(qkv, LENGTHS, base),
        (qkv,),
        (torch.randn(TOKENS, 3, 2, 16),),
        roundings,
    )


def test_rotary_up_to_the_longest_context() -> None:
    """The rounding error of an angle at position 8,191 is 8,192 times that at position 1."""
    lengths = (1, 8192, 1024)
    compare(
        lambda qkv: kernels.rotary(qkv, cumulative(lengths), 160_000.0),
        lambda qkv: rotary.formula(qkv, lengths, 160_000.0),
        (torch.randn(sum(lengths), 3, 1, 8),),
        (torch.randn(sum(lengths), 3, 1, 8),),
        roundings=8192,
    )
