"""Positions and document numbers of packed tokens, from their cumulative lengths."""

import torch
from torch import Tensor

from mmbert_kernels.support.checks import require


def check_cu_seqlens(cu_seqlens: Tensor) -> None:
    """Raise ValueError unless `cu_seqlens` is a one-dimensional int32 tensor of length 2 or more.

    The values are not checked, to avoid a synchronization with a GPU.
    """
    require(
        cu_seqlens.ndim == 1 and cu_seqlens.numel() >= 2 and cu_seqlens.dtype == torch.int32,
        "cu_seqlens must be int32[documents + 1], starting with 0 and ending with the number of "
        f"tokens; got {cu_seqlens.dtype}{list(cu_seqlens.shape)}",
    )


def document_numbers(cu_seqlens: Tensor, tokens: int) -> Tensor:
    """Return the document number of each token, int64 [tokens].

    Repeated entries at the end of `cu_seqlens` (its padding) are empty documents.
    """
    indices = torch.arange(tokens, device=cu_seqlens.device, dtype=cu_seqlens.dtype)
    return torch.searchsorted(cu_seqlens, indices, right=True) - 1


def token_positions(cu_seqlens: Tensor, tokens: int) -> Tensor:
    """Return each token's position in its document, from 0, int32 [tokens]."""
    indices = torch.arange(tokens, device=cu_seqlens.device, dtype=cu_seqlens.dtype)
    return indices - cu_seqlens[document_numbers(cu_seqlens, tokens)]
