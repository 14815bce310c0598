"""Triton kernels of layer norm, with a single read of each row (formulas: layer_norm.py).

In the backward pass each program iterates over blocks of rows and accumulates its partial dweight
in float32 registers; the partial sums are then added in a fixed order, so the gradient is
deterministic. With `ids`, row t is row ids[t] of a table (embedding_layer_norm.py). With dropout,
the mask of dropout.py is applied to the first summand.
"""

# ruff: noqa: N803  (Triton's compile-time arguments are in capitals)

import torch
from torch import Tensor

from mmbert_kernels.norms.dropout import Dropout, channel_words, keep_tile
from mmbert_kernels.support.triton_import import (
    blocks,
    contiguous_rows,
    launch,
    next_power_of_2,
    persistent_programs,
    tl,
    triton,
)

# Registers per lane in the backward pass. The four programs launched per multiprocessor then fit
# its 65,536 registers at once (two of them for widths above 2,048).
REGISTERS = 128


@triton.jit(do_not_specialize=["first_counter"])
def _forward_kernel(  # type: ignore[no-untyped-def]
    x_pointer,
    residual_pointer,
    ids_pointer,
    weight_pointer,
    words_pointer,
    out_pointer,
    residual_out_pointer,
    mean_pointer,
    rstd_pointer,
    rows,
    width,
    x_stride,
    residual_stride,
    eps,
    threshold,
    scale,
    first_counter,
    HAS_RESIDUAL: tl.constexpr,
    HAS_DROPOUT: tl.constexpr,
    HAS_IDS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.arange(0, BLOCK_N)
    row_inside = row < rows
    inside = row_inside[:, None] & (column < width)[None, :]
    source = row
    if HAS_IDS:
        source = tl.load(ids_pointer + row, mask=row_inside, other=0)
    x = tl.load(x_pointer + source[:, None] * x_stride + column[None, :], mask=inside, other=0.0)
    x = x.to(tl.float32)
    if HAS_DROPOUT:
        keep = keep_tile(row, column, words_pointer, width, threshold, first_counter)
        x = tl.where(keep, x * scale, 0.0)
    target = row[:, None] * width + column[None, :]
    if HAS_RESIDUAL:
        residual_at = residual_pointer + row[:, None] * residual_stride + column[None, :]
        x += tl.load(residual_at, mask=inside, other=0.0).to(tl.float32)
        residual_out = x.to(residual_out_pointer.dtype.element_ty)
        tl.store(residual_out_pointer + target, residual_out, mask=inside)
        x = residual_out.to(tl.float32)
    mean = tl.sum(x, axis=1) / width
    centered = tl.where(inside, x - mean[:, None], 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(centered * centered, axis=1) / width + eps)
    weight = tl.load(weight_pointer + column, mask=column < width, other=0.0).to(tl.float32)
    out = centered * rstd[:, None] * weight[None, :]
    tl.store(out_pointer + target, out.to(out_pointer.dtype.element_ty), mask=inside)
    tl.store(mean_pointer + row, mean, mask=row_inside)
    tl.store(rstd_pointer + row, rstd, mask=row_inside)


@triton.jit(do_not_specialize=["first_counter"])
def _backward_kernel(  # type: ignore[no-untyped-def]
    grad_out_pointer,
    grad_residual_pointer,
    x_pointer,
    ids_pointer,
    weight_pointer,
    words_pointer,
    mean_pointer,
    rstd_pointer,
    grad_x_pointer,
    grad_dropped_pointer,
    grad_weight_pointer,
    rows,
    width,
    grad_out_stride,
    grad_residual_stride,
    x_stride,
    threshold,
    scale,
    first_counter,
    HAS_GRAD_OUT: tl.constexpr,
    HAS_GRAD_RESIDUAL: tl.constexpr,
    HAS_DROPOUT: tl.constexpr,
    HAS_IDS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    program = tl.program_id(0)
    column = tl.arange(0, BLOCK_N)
    column_inside = column < width
    weight = tl.load(weight_pointer + column, mask=column_inside, other=0.0).to(tl.float32)
    grad_weight = tl.zeros([BLOCK_N], dtype=tl.float32)
    for block in range(program, tl.cdiv(rows, BLOCK_M), tl.num_programs(0)):
        row = tl.cast(block, tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
        row_inside = row < rows
        inside = row_inside[:, None] & column_inside[None, :]
        grad_x = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
        if HAS_GRAD_OUT:
            source = row
            if HAS_IDS:
                source = tl.load(ids_pointer + row, mask=row_inside, other=0)
            x_at = x_pointer + source[:, None] * x_stride + column[None, :]
            x = tl.load(x_at, mask=inside, other=0.0).to(tl.float32)
            grad_at = grad_out_pointer + row[:, None] * grad_out_stride + column[None, :]
            grad_out = tl.load(grad_at, mask=inside, other=0.0).to(tl.float32)
            mean = tl.load(mean_pointer + row, mask=row_inside, other=0.0)
            rstd = tl.load(rstd_pointer + row, mask=row_inside, other=0.0)
            normed = tl.where(inside, (x - mean[:, None]) * rstd[:, None], 0.0)
            scaled = grad_out * weight[None, :]
            along = tl.sum(scaled * normed, axis=1) / width
            across = tl.sum(scaled, axis=1) / width
            grad_x = (scaled - across[:, None] - normed * along[:, None]) * rstd[:, None]
            grad_weight += tl.sum(grad_out * normed, axis=0)
        if HAS_GRAD_RESIDUAL:
            grad_residual_at = (
                grad_residual_pointer + row[:, None] * grad_residual_stride + column[None, :]
            )
            grad_x += tl.load(grad_residual_at, mask=inside, other=0.0).to(tl.float32)
        target = row[:, None] * width + column[None, :]
        grad = grad_x.to(grad_x_pointer.dtype.element_ty)
        tl.store(grad_x_pointer + target, grad, mask=inside)
        if HAS_DROPOUT:
            keep = keep_tile(row, column, words_pointer, width, threshold, first_counter)
            dropped = tl.where(keep, grad_x * scale, 0.0)
            dropped = dropped.to(grad_dropped_pointer.dtype.element_ty)
            tl.store(grad_dropped_pointer + target, dropped, mask=inside)
    share_at = grad_weight_pointer + program.to(tl.int64) * width + column
    tl.store(share_at, grad_weight, mask=column_inside)


def _rows_per_program(width: int, elements: int = 4096) -> int:
    """Return the number of rows in a block of about `elements` elements, 1 to 16."""
    return max(1, min(16, elements // next_power_of_2(width)))


def _rows_per_step(width: int, dtype: torch.dtype) -> int:
    """Return the number of rows per iteration of a backward program.

    Fewer for float32 gradients and for widths up to 512, where REGISTERS would not suffice.
    """
    small = dtype == torch.float32 or width <= 512
    return _rows_per_program(width, 2048 if small else 4096)


def _warps(width: int) -> int:
    return 4 if width <= 2048 else 8


def triton_forward(
    x: Tensor,
    *,
    weight: Tensor,
    eps: float,
    residual: Tensor | None = None,
    ids: Tensor | None = None,
    dropout: Dropout | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (normed, sum or x, mean, rstd) of the rows of x or x[ids]."""
    x, weight = contiguous_rows(x), contiguous_rows(weight)
    rows, width = (x.shape[0] if ids is None else ids.shape[0]), x.shape[1]
    dtype = x.dtype if residual is None else residual.dtype
    out = torch.empty(rows, width, dtype=dtype, device=x.device)
    residual_out = x
    if residual is not None:
        residual = contiguous_rows(residual)
        residual_out = torch.empty_like(out)
    mean = torch.empty(rows, dtype=torch.float32, device=x.device)
    rstd = torch.empty_like(mean)
    if rows:
        block = _rows_per_program(width)
        launch(
            _forward_kernel,
            (blocks(rows, block),),
            x,
            residual,
            ids,
            weight,
            channel_words(width // 2, x.device) if dropout else None,
            out,
            residual_out if residual is not None else None,
            mean,
            rstd,
            rows,
            width,
            x.stride(0),
            residual.stride(0) if residual is not None else 0,
            eps,
            *_settings(dropout),
            HAS_RESIDUAL=residual is not None,
            HAS_DROPOUT=dropout is not None,
            HAS_IDS=ids is not None,
            BLOCK_M=block,
            BLOCK_N=next_power_of_2(width),
            num_warps=_warps(width),
        )
    return out, residual_out, mean, rstd


def triton_backward(
    *,
    x: Tensor,
    weight: Tensor,
    mean: Tensor,
    rstd: Tensor,
    grad_out: Tensor | None,
    grad_residual: Tensor | None = None,
    ids: Tensor | None = None,
    dropout: Dropout | None = None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of (rows, dropout's input, weight), the first two in `dtype`."""
    rows, width = mean.shape[0], x.shape[1]
    grad_x = torch.empty(rows, width, dtype=dtype, device=x.device)
    grad_dropped = grad_x if dropout is None else torch.empty_like(grad_x)
    block = _rows_per_step(width, dtype)
    programs = min(blocks(rows, block), persistent_programs(x.device))
    shares = torch.empty(programs, width, dtype=torch.float32, device=x.device)
    grad_out = None if grad_out is None else contiguous_rows(grad_out)
    grad_residual = None if grad_residual is None else contiguous_rows(grad_residual)
    if rows:
        launch(
            _backward_kernel,
            (programs,),
            grad_out,
            grad_residual,
            x,
            ids,
            weight,
            channel_words(width // 2, x.device) if dropout else None,
            mean,
            rstd,
            grad_x,
            grad_dropped,
            shares,
            rows,
            width,
            grad_out.stride(0) if grad_out is not None else 0,
            grad_residual.stride(0) if grad_residual is not None else 0,
            x.stride(0),
            *_settings(dropout),
            HAS_GRAD_OUT=grad_out is not None,
            HAS_GRAD_RESIDUAL=grad_residual is not None,
            HAS_DROPOUT=dropout is not None,
            HAS_IDS=ids is not None,
            BLOCK_M=block,
            BLOCK_N=next_power_of_2(width),
            num_warps=_warps(width),
            maxnreg=REGISTERS,
        )
    return grad_x, grad_dropped, shares.sum(dim=0).to(weight.dtype)


def _settings(dropout: Dropout | None) -> tuple[int, float, int]:
    """Return the kernels' dropout arguments: threshold, scale and first counter."""
    return (
        (0, 0.0, 0)
        if dropout is None
        else (dropout.threshold, dropout.scale, dropout.first_counter)
    )
