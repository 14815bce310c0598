"""The embedding of tokens followed by layer normalisation (layer_norm.py has the formulae).

    y[t] = layer_norm(table[ids[t]])

Backward gives the table a dense gradient: row i is the sum over the tokens with id i, taken in
the order of the tokens, so that it is the same in every run.
"""

import torch
from torch import Tensor
from torch.nn import functional

from mmbert_kernels.checks import require
from mmbert_kernels.layer_norm import layer_norm_reference


def embedding_layer_norm(ids: Tensor, table: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Look up the rows of `table` and normalise them.

    Args:
        ids: int64 [T], each in [0, V). Not checked on a GPU, where a look would make it wait.
        table: [V, d].
        weight: [d].
        eps: added to the variance.

    Returns:
        [T, d], of the table's dtype.

    Raises:
        ValueError: shapes do not fit, or (on CPU) an id lies outside the table.
    """
    _check(ids, table, weight)
    return embedding_layer_norm_reference(ids, table, weight, eps)


def embedding_layer_norm_reference(
    ids: Tensor, table: Tensor, weight: Tensor, eps: float
) -> Tensor:
    """`embedding_layer_norm` in plain PyTorch."""
    return layer_norm_reference(functional.embedding(ids, table), weight, eps)


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
    if ids.device.type == "cpu" and ids.numel() > 0:
        lowest, highest = int(ids.min()), int(ids.max())
        require(
            lowest >= 0 and highest < table.shape[0],
            f"embedding_layer_norm: ids go from {lowest} to {highest}, but the table has "
            f"{table.shape[0]} rows",
        )
