"""Gathering the rows at the masked positions; the way back adds in a fixed order.

y[k] = x[positions[k]]          dx[t] = sum of dy[k] over the k with positions[k] = t, k ascending
"""

import torch
from torch import Tensor

from mmbert_kernels.checks import require


def gather_rows(x: Tensor, positions: Tensor) -> Tensor:
    """Take the rows of `x` at `positions`, which may repeat and need not be sorted.

    Args:
        x: [T, d].
        positions: int64 [K], each in [0, T). Not checked on a GPU.

    Returns:
        [K, d].

    Raises:
        ValueError: shapes do not fit.
    """
    require(x.ndim == 2, f"gather_rows: x must be [T, d]; got {list(x.shape)}")
    require(
        positions.ndim == 1 and positions.dtype == torch.int64,
        f"gather_rows: positions must be int64[K]; got {positions.dtype}{list(positions.shape)}",
    )
    return gather_rows_reference(x, positions)


def gather_rows_reference(x: Tensor, positions: Tensor) -> Tensor:
    """`gather_rows` in plain PyTorch."""
    return x.index_select(0, positions)
