"""Gated GELU of the feed-forward layers: the first half is activated, the second is the gate.

    y = gelu(a) * b,   (a, b) = halves of x,   gelu(a) = a/2 * (1 + erf(a / sqrt 2))

Backward:

    da = dy * b * gelu'(a)       gelu'(a) = (1 + erf(a / sqrt 2)) / 2 + a * exp(-a^2/2) / sqrt(2 pi)
    db = dy * gelu(a)
"""

# ruff: noqa: N803  (Triton's compile-time arguments are in capitals)

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mmbert_kernels.support.checks import computation_dtype, require, require_triton_dtype
from mmbert_kernels.support.dispatch import backend, fused_operation
from mmbert_kernels.support.triton_import import blocks, contiguous_rows, launch, tl, triton

# Tile of a program; 128 divides the widths of the models, so no lane is idle.
BLOCK_M, BLOCK_N = 16, 128


@fused_operation("geglu")
def geglu(x: Tensor) -> Tensor:
    """Apply the gated GELU.

    Args:
        x: [T, 2f]; columns [0, f) are activated, columns [f, 2f) are the gate.

    Returns:
        [T, f] in x's dtype, rounded once from float32.

    Raises:
        ValueError: x is not two-dimensional with an even width.
    """
    require(x.ndim == 2 and x.shape[1] % 2 == 0, f"geglu: x must be [T, 2f]; got {list(x.shape)}")
    if backend("geglu", x.device.type) == "reference":
        return geglu_reference(x)
    require_triton_dtype("geglu", x)
    out: Tensor = _GeGLU.apply(x)
    return out


def geglu_reference(x: Tensor) -> Tensor:
    """Compute `geglu` in plain PyTorch."""
    out: Tensor = _GeGLUReference.apply(x)
    return out


class _GeGLUReference(torch.autograd.Function):
    """Writes the gradient directly into its halves; autograd would concatenate them by a copy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        activated, gate = x.to(computation_dtype(x.dtype)).chunk(2, dim=-1)
        gelu = functional.gelu(activated)
        ctx.save_for_backward(x, gelu)
        return (gelu * gate).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x, gelu = ctx.saved_tensors
        activated, gate = x.to(gelu.dtype).chunk(2, dim=-1)
        grad = grad.to(gelu.dtype)
        grad_x = torch.empty(x.shape, dtype=gelu.dtype, device=x.device)
        grad_activated, grad_gate = grad_x.chunk(2, dim=-1)
        torch.mul(grad, gelu, out=grad_gate)
        torch.ops.aten.gelu_backward.grad_input(
            grad * gate, activated, approximate="none", grad_input=grad_activated
        )
        return grad_x.to(x.dtype)


@triton.jit
def _gelu_parts(a):  # type: ignore[no-untyped-def]
    """Return gelu(a) and its derivative."""
    half = 0.5 * (1.0 + tl.erf(a * 0.7071067811865476))
    density = 0.3989422804014327 * tl.exp(-0.5 * a * a)
    return a * half, half + a * density


@triton.jit
def _forward_kernel(  # type: ignore[no-untyped-def]
    x_pointer, out_pointer, rows, width, x_stride, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (row < rows)[:, None] & (column < width)[None, :]
    at = x_pointer + row[:, None] * x_stride + column[None, :]
    activated = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(at + width, mask=inside, other=0.0).to(tl.float32)
    gelu, _ = _gelu_parts(activated)
    out_at = out_pointer + row[:, None] * width + column[None, :]
    tl.store(out_at, (gelu * gate).to(out_pointer.dtype.element_ty), mask=inside)


@triton.jit
def _backward_kernel(  # type: ignore[no-untyped-def]
    grad_pointer,
    x_pointer,
    grad_x_pointer,
    rows,
    width,
    grad_stride,
    x_stride,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (row < rows)[:, None] & (column < width)[None, :]
    at = x_pointer + row[:, None] * x_stride + column[None, :]
    activated = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(at + width, mask=inside, other=0.0).to(tl.float32)
    grad_at = grad_pointer + row[:, None] * grad_stride + column[None, :]
    grad = tl.load(grad_at, mask=inside, other=0.0).to(tl.float32)
    gelu, derivative = _gelu_parts(activated)
    target = grad_x_pointer + row[:, None] * 2 * width + column[None, :]
    dtype = grad_x_pointer.dtype.element_ty
    tl.store(target, (grad * gate * derivative).to(dtype), mask=inside)
    tl.store(target + width, (grad * gelu).to(dtype), mask=inside)


class _GeGLU(torch.autograd.Function):
    """Saves only x for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = contiguous_rows(x)
        rows, width = x.shape[0], x.shape[1] // 2
        out = torch.empty(rows, width, dtype=x.dtype, device=x.device)
        if out.numel():
            launch(
                _forward_kernel,
                (blocks(rows, BLOCK_M), blocks(width, BLOCK_N)),
                x,
                out,
                rows,
                width,
                x.stride(0),
                BLOCK_M=BLOCK_M,
                BLOCK_N=BLOCK_N,
                num_warps=4,
            )
        ctx.save_for_backward(x)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        grad = contiguous_rows(grad)
        rows, width = grad.shape
        grad_x = torch.empty(rows, 2 * width, dtype=x.dtype, device=x.device)
        if grad.numel():
            launch(
                _backward_kernel,
                (blocks(rows, BLOCK_M), blocks(width, BLOCK_N)),
                grad,
                x,
                grad_x,
                rows,
                width,
                grad.stride(0),
                x.stride(0),
                BLOCK_M=BLOCK_M,
                BLOCK_N=BLOCK_N,
                num_warps=4,
            )
        return grad_x
