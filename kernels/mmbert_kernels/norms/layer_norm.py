"""Layer norm without bias, alone or fused with the residual addition.

For each row x of width d:

    mean = sum(x) / d        variance = sum((x - mean)^2) / d
    y = (x - mean) / sqrt(variance + eps) * weight

Backward, with n = (x - mean) / sqrt(variance + eps) and g = dy * weight:

    dx = (g - mean(g) - n * mean(g * n)) / sqrt(variance + eps)
    dweight = sum over the rows of dy * n

`prenorm_layer_norm` also returns x, and adds the gradients of both outputs in one pass.
`add_layer_norm` returns (norm of s, s) for s = x + residual, rounded to the residual's dtype as the
next layer reads it. Both summands receive the gradient dx + ds. With dropout (dropout.py),
s = dropout(x) + residual, and the same mask is applied to the gradient of x.

The Triton kernels are in triton_kernels.py.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mmbert_kernels.norms.dropout import Dropout, add_dropped
from mmbert_kernels.norms.triton_kernels import triton_backward, triton_forward
from mmbert_kernels.support.checks import computation_dtype, require, require_triton_dtype
from mmbert_kernels.support.dispatch import backend, fused_operation
from mmbert_kernels.support.triton_import import contiguous_rows


@fused_operation("layer_norm")
def layer_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalize the rows of `x`.

    Args:
        x: [T, d].
        weight: [d].
        eps: added to the variance.

    Returns:
        [T, d] in x's dtype; statistics are float32.

    Raises:
        ValueError: shapes do not match.
    """
    _check(x, weight)
    if backend("layer_norm", x.device.type) == "reference":
        return layer_norm_reference(x, weight, eps)
    require_triton_dtype("layer_norm", x, weight)
    out: Tensor = _LayerNorm.apply(x, weight, eps)
    return out


@fused_operation("layer_norm")
def prenorm_layer_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return (`layer_norm(x)`, x), for an x that is also the residual stream.

    Arguments and errors: see `layer_norm`.
    """
    _check(x, weight)
    if backend("layer_norm", x.device.type) == "reference":
        return layer_norm_reference(x, weight, eps), x
    require_triton_dtype("prenorm_layer_norm", x, weight)
    normed, same = _PrenormLayerNorm.apply(x, weight, eps)
    return normed, same


@fused_operation("add_layer_norm")
def add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float, dropout: Dropout | None = None
) -> tuple[Tensor, Tensor]:
    """Add the residual and normalize the rows of the sum.

    Args:
        x: [T, d], the output of a branch.
        residual: [T, d].
        weight: [d].
        eps: added to the variance.
        dropout: applied to x before the addition; requires an even d.

    Returns:
        (normed [T, d], sum [T, d]), both in the residual's dtype; the norm is computed from the
        rounded sum.

    Raises:
        ValueError: shapes do not match.
    """
    _check(x, weight)
    require(
        x.shape == residual.shape,
        "add_layer_norm: x and residual must have the same shape; got "
        f"{list(x.shape)} and {list(residual.shape)}",
    )
    require(
        dropout is None or x.shape[1] % 2 == 0,
        f"add_layer_norm: dropout needs an even width; got {x.shape[1]}",
    )
    if backend("add_layer_norm", x.device.type) == "reference":
        return add_layer_norm_reference(x, residual, weight, eps, dropout)
    require_triton_dtype("add_layer_norm", x, residual, weight)
    normed, residual_out = _AddLayerNorm.apply(x, residual, weight, eps, dropout)
    return normed, residual_out


def layer_norm_reference(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Compute `layer_norm` in plain PyTorch."""
    if x.dtype == weight.dtype:  # PyTorch's layer norm keeps its statistics in float32
        return functional.layer_norm(x, weight.shape, weight, None, eps)
    compute = computation_dtype(x.dtype)
    out = functional.layer_norm(x.to(compute), weight.shape, weight.to(compute), None, eps)
    return out.to(x.dtype)


def add_layer_norm_reference(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float, dropout: Dropout | None = None
) -> tuple[Tensor, Tensor]:
    """Compute `add_layer_norm` in plain PyTorch."""
    if dropout is None:
        residual_out = (x + residual).to(residual.dtype)
    else:
        residual_out = add_dropped(x, residual, dropout)
    return layer_norm_reference(residual_out, weight, eps), residual_out


def _check(x: Tensor, weight: Tensor) -> None:
    require(
        x.ndim == 2 and weight.shape == x.shape[1:],
        f"layer_norm: x must be [T, d] and weight [d]; got {list(x.shape)} and "
        f"{list(weight.shape)}",
    )


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        out, residual_out, mean, rstd = triton_forward(x, weight=weight, eps=eps)
        ctx.save_for_backward(residual_out, contiguous_rows(weight), mean, rstd)
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, mean, rstd = ctx.saved_tensors
        grad, _, grad_weight = triton_backward(
            x=x, weight=weight, mean=mean, rstd=rstd, grad_out=grad_out, dtype=x.dtype
        )
        return grad, grad_weight, None


class _PrenormLayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        out, rows, mean, rstd = triton_forward(x, weight=weight, eps=eps)
        ctx.save_for_backward(rows, contiguous_rows(weight), mean, rstd)
        return out, x

    @staticmethod
    def backward(
        ctx: Any, grad_out: Tensor | None, grad_x: Tensor | None
    ) -> tuple[Tensor, Tensor, None]:
        rows, weight, mean, rstd = ctx.saved_tensors
        grad, _, grad_weight = triton_backward(
            x=rows,
            weight=weight,
            mean=mean,
            rstd=rstd,
            grad_out=grad_out,
            grad_residual=grad_x,
            dtype=rows.dtype,
        )
        return grad, grad_weight, None


class _AddLayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor, weight: Tensor, eps: float, dropout: Dropout | None
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        out, residual_out, mean, rstd = triton_forward(
            x, weight=weight, eps=eps, residual=residual, dropout=dropout
        )
        ctx.save_for_backward(residual_out, contiguous_rows(weight), mean, rstd)
        ctx.x_dtype, ctx.dropout = x.dtype, dropout
        return out, residual_out

    @staticmethod
    def backward(
        ctx: Any, grad_out: Tensor | None, grad_residual: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, None, None]:
        residual_out, weight, mean, rstd = ctx.saved_tensors
        grad, grad_x, grad_weight = triton_backward(
            x=residual_out,
            weight=weight,
            mean=mean,
            rstd=rstd,
            grad_out=grad_out,
            grad_residual=grad_residual,
            dropout=ctx.dropout,
            dtype=residual_out.dtype,
        )
        return grad_x.to(ctx.x_dtype), grad, grad_weight, None, None
