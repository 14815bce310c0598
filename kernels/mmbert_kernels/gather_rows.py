"""Gather of rows, such as those at the masked positions, with a deterministic backward pass.

y[k] = x[positions[k]]          dx[t] = sum of dy[k] over the k with positions[k] = t, k ascending
"""

from typing import Any

import torch
from torch import Tensor

from mmbert_kernels.scatter_rows import scatter_rows_reference, scatter_rows_triton
from mmbert_kernels.support.checks import require, require_triton_dtype
from mmbert_kernels.support.dispatch import backend, fused_operation


@fused_operation("gather_rows")
def gather_rows(x: Tensor, positions: Tensor, *, ascending: bool = False) -> Tensor:
    """Gather the rows of `x` at `positions`, which may repeat.

    Args:
        x: [T, d].
        positions: int64 [K], each in [0, T). Not checked on a GPU.
        ascending: whether `positions` is sorted; skips a sort in the backward pass on a GPU.

    Returns:
        [K, d].

    Raises:
        ValueError: shapes do not match.
        RuntimeError (on a GPU, a device-side assertion): unsorted positions despite `ascending`.
    """
    require(x.ndim == 2, f"gather_rows: x must be [T, d]; got {list(x.shape)}")
    require(
        positions.ndim == 1 and positions.dtype == torch.int64,
        f"gather_rows: positions must be int64[K]; got {positions.dtype}{list(positions.shape)}",
    )
    if ascending:
        holds = (positions[1:] >= positions[:-1]).all()
        torch._assert_async(holds, "gather_rows: positions are not sorted")
    if backend("gather_rows", x.device.type) == "reference":
        return gather_rows_reference(x, positions)
    require_triton_dtype("gather_rows", x)
    rows: Tensor = _GatherRows.apply(x, positions, True, ascending)
    return rows


def gather_rows_reference(x: Tensor, positions: Tensor) -> Tensor:
    """Compute `gather_rows` in plain PyTorch."""
    rows: Tensor = _GatherRows.apply(x, positions, False, False)
    return rows


class _GatherRows(torch.autograd.Function):
    """PyTorch's index_select, which is as fast as any kernel, with a deterministic backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, positions: Tensor, use_triton: bool, ascending: bool
    ) -> Tensor:
        ctx.save_for_backward(positions)
        ctx.rows, ctx.use_triton, ctx.ascending = x.shape[0], use_triton, ascending
        return x.index_select(0, positions)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (positions,) = ctx.saved_tensors
        if ctx.use_triton:
            x_grad = scatter_rows_triton(grad, positions, ctx.rows, ascending=ctx.ascending)
        else:
            x_grad = scatter_rows_reference(grad, positions, ctx.rows)
        return x_grad, None, None, None
