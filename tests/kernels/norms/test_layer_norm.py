"""Layer norms on a CPU: unused outputs and refused arguments."""

import pytest
import torch

import mmbert_kernels as kernels
from tests.kernels.norms.unused_outputs import check_prenorm

DTYPES = (torch.float32, torch.bfloat16, torch.float64)
pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.mark.parametrize("dtype", DTYPES)
def test_prenorm_with_one_output_used(dtype: torch.dtype) -> None:
    check_prenorm(torch.randn(37, 96, dtype=dtype) * 3 + 1, torch.randn(96, dtype=dtype))


def test_embedding_of_an_id_outside_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="ids range from 0 to 50, but the table has 50 rows"):
        kernels.embedding_layer_norm(torch.tensor([0, 50]), torch.zeros(50, 8), torch.ones(8), 1e-5)
