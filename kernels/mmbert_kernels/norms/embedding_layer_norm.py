"""Embedding look-up followed by layer norm (formulas: layer_norm.py).

    y[t] = layer_norm(table[ids[t]])

The table's gradient is dense. Row i sums the gradients of the tokens with id i in a fixed order, so
the result is deterministic.
"""

from typing import Any

import torch
from torch import Tensor

from mmbert_kernels.gather_rows import gather_rows_reference
from mmbert_kernels.norms.layer_norm import layer_norm_reference
from mmbert_kernels.norms.triton_kernels import triton_backward, triton_forward
from mmbert_kernels.scatter_rows import scatter_rows_triton
from mmbert_kernels.support.checks import is_host_readable, require, require_triton_dtype
from mmbert_kernels.support.dispatch import backend, fused_operation
from mmbert_kernels.support.triton_import import contiguous_rows


@fused_operation("embedding_layer_norm")
def embedding_layer_norm(ids: Tensor, table: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Look up rows of `table` and normalize them.

    Args:
        ids: int64 [T], each in [0, V). Not checked on a GPU, to avoid a synchronization.
        table: [V, d].
        weight: [d].
        eps: added to the variance.

    Returns:
        [T, d] in the table's dtype.

    Raises:
        ValueError: shapes do not match, or (on CPU) an id is outside the table.
    """
    _check(ids, table, weight)
    if backend("embedding_layer_norm", table.device.type) == "reference":
        return embedding_layer_norm_reference(ids, table, weight, eps)
    require_triton_dtype("embedding_layer_norm", table, weight)
    out: Tensor = _EmbeddingLayerNorm.apply(ids, table, weight, eps)
    return out


def embedding_layer_norm_reference(
    ids: Tensor, table: Tensor, weight: Tensor, eps: float
) -> Tensor:
    """Compute `embedding_layer_norm` in plain PyTorch."""
    return layer_norm_reference(gather_rows_reference(table, ids), weight, eps)


def _check(ids: Tensor, table: Tensor, weight: Tensor) -> None:
    require(
        ids.ndim == 1 and ids.dtype == torch.int64,
        f"embedding_layer_norm: ids must be int64[T]; got {ids.dtype}{list(ids.shape)}",
    )
    require(
        table.ndim == 2 and weight.shape == table.shape[1:],
        f"embedding_layer_norm: table must be [V, d] and weight [d]; got {list(table.shape)} "
        f"and {list(weight.shape)}",
    )
    if is_host_readable(ids) and ids.numel() > 0:
        lowest, highest = int(ids.min()), int(ids.max())
        require(
            lowest >= 0 and highest < table.shape[0],
            f"embedding_layer_norm: ids range from {lowest} to {highest}, but the table has "
            f"{table.shape[0]} rows",
        )


class _EmbeddingLayerNorm(torch.autograd.Function):
    """Layer norm kernels that read rows through `ids`, without storing the looked-up rows."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, table: Tensor, weight: Tensor, eps: float) -> Tensor:
        ids = ids.contiguous()
        out, _, mean, rstd = triton_forward(table, weight=weight, eps=eps, ids=ids)
        ctx.save_for_backward(ids, contiguous_rows(table), contiguous_rows(weight), mean, rstd)
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[None, Tensor, Tensor, None]:
        ids, table, weight, mean, rstd = ctx.saved_tensors
        rows, _, grad_weight = triton_backward(
            x=table,
            weight=weight,
            mean=mean,
            rstd=rstd,
            grad_out=grad_out,
            ids=ids,
            dtype=torch.float32,
        )
        grad_table = scatter_rows_triton(rows, ids, table.shape[0], table.dtype)
        return None, grad_table, grad_weight, None
