"""Layer norms on a CPU: unused outputs and refused arguments."""

import pytest
import torch

import mmbert_kernels as kernels
from tests.kernels.cases import layer_norm
from tests.kernels.comparison import assert_close, compare

DTYPES = (torch.float32, torch.bfloat16, torch.float64)
pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.mark.parametrize("dtype", DTYPES)
def test_branching_layer_norm(dtype: torch.dtype) -> None:
    x, weight = torch.randn(37, 96, dtype=dtype) * 3 + 1, torch.randn(96, dtype=dtype)
    compare(
        lambda x, w: kernels.prenorm_layer_norm(x, w, 1e-5),
        lambda x, w: (layer_norm.formula(x, w), x),
        (x, weight),
        (torch.randn(37, 96), torch.randn(37, 96)),
        roundings=32,
    )
    # an output may be unused
    for used, formula in ((0, layer_norm.formula(x, weight)), (1, x.double())):
        leaf = x.clone().requires_grad_()
        out = kernels.prenorm_layer_norm(leaf, weight, 1e-5)[used]
        assert_close("output", out.detach(), formula, 32)
        (gradient,) = torch.autograd.grad(out.sum(), leaf)
        assert gradient.isfinite().all()
        assert used == 0 or (gradient == 1).all()


def test_embedding_of_an_id_outside_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="ids range from 0 to 50, but the table has 50 rows"):
        kernels.embedding_layer_norm(torch.tensor([0, 50]), torch.zeros(50, 8), torch.ones(8), 1e-5)
