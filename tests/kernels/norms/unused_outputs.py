"""Check of an operation with two outputs, one of which is unused."""

import torch
from torch import Tensor

import mmbert_kernels as kernels
from tests.kernels.cases.layer_norm import EPS, formula
from tests.kernels.comparison import assert_close


def check_prenorm(x: Tensor, weight: Tensor) -> None:
    """Assert that each output of `prenorm_layer_norm` is right with the other one unused.

    Args:
        x: [rows, width], in any floating dtype.
        weight: [width], in the dtype of x.
    """
    for used, expected in ((0, formula(x, weight)), (1, x.double())):
        leaf = x.clone().requires_grad_()
        out = kernels.prenorm_layer_norm(leaf, weight, EPS)[used]
        assert_close("output", out.detach(), expected, 32)
        (gradient,) = torch.autograd.grad(out.sum(), leaf)
        assert gradient.isfinite().all()
        assert used == 0 or (gradient == 1).all()
