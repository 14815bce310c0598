"""Triton kernels of layer norm: unused outputs, rounded sums and dropout."""

import pytest
import torch

import mmbert_kernels as kernels
from mmbert_kernels.norms.dropout import keep_mask
from tests.kernels.cases import layer_norm
from tests.kernels.comparison import assert_close, compare
from tests.kernels.norms.unused_outputs import check_prenorm
from tests.kernels.on_triton import DEVICE, DTYPES, INTERPRETED, USE_TRITON, randn

pytestmark = [USE_TRITON, *([] if INTERPRETED else [pytest.mark.gpu])]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_norm_is_that_of_the_sum_that_is_given(dtype: torch.dtype, share: float) -> None:
    """Bitwise, because the backward pass and recomputation only have the rounded sum."""
    x, residual, weight = randn(37, 96, dtype=dtype), randn(37, 96, dtype=dtype) * 4, randn(96)
    dropout = kernels.Dropout(share, 5) if share else None
    normed, total = kernels.add_layer_norm(x, residual, weight.to(dtype), 1e-5, dropout)
    assert torch.equal(normed, kernels.layer_norm(total, weight.to(dtype), 1e-5))


def test_add_layer_norm_with_one_output_used() -> None:
    x, residual, weight = randn(9, 40), randn(9, 40), randn(40)
    compare(
        lambda x, r, w: kernels.add_layer_norm(x, r, w, 1e-5)[0],
        lambda x, r, w: layer_norm.formula(x + r, w),
        (x, residual, weight),
        (randn(9, 40),),
        roundings=32,
    )
    compare(
        lambda x, r: kernels.add_layer_norm(x, r, weight, 1e-5)[1],
        lambda x, r: x + r,
        (x, residual),
        (randn(9, 40),),
        roundings=1,
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_prenorm_with_one_output_used(dtype: torch.dtype) -> None:
    check_prenorm(randn(37, 96, dtype=dtype) * 3 + 1, randn(96, dtype=dtype))


@pytest.mark.parametrize("first_token", [0, 3, 2**33 + 5, 2_999_999_999_999])
def test_dropout_has_the_masks_of_the_reference(first_token: int) -> None:
    ones, zeros = torch.ones(70, 96, device=DEVICE), torch.zeros(70, 96, device=DEVICE)
    for seed in (0, 21, 2**63 + 11, -1):
        dropout = kernels.Dropout(0.3, seed, first_token)
        _, out = kernels.add_layer_norm(ones, zeros, ones[0], 1e-5, dropout)
        assert torch.equal(out != 0, keep_mask(dropout, 70, 96, DEVICE))


def test_expanded_gradients_are_read_right() -> None:
    """The gradient of a sum has strides of zero."""
    x, weight = randn(11, 40).requires_grad_(), randn(40)
    kernels.layer_norm(x, weight, 1e-5).sum().backward()
    true = x.detach().double().requires_grad_()
    layer_norm.formula(true, weight).sum().backward()
    assert x.grad is not None
    assert true.grad is not None
    assert_close("gradient", x.grad, true.grad, 512)
