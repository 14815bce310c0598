"""Positions and document numbers of packed tokens, from their cumulative lengths."""

import torch
from torch import Tensor

from mmbert_kernels.support.checks import require


def check_cu_seqlens(cu_seqlens: Tensor) -> None:
    """Refuse cumulative lengths that are not a one-dimensional integer tensor of two or more.

    Their values are not looked at: that would make a GPU wait.
    """
    require(
        cu_seqlens.ndim == 1 and cu_seqlens.numel() >= 2 and cu_seqlens.dtype == torch.int32,
        "cu_seqlens must be int32[documents + 1], starting with 0 and ending with the number of "
        f"tokens; got {cu_seqlens.dtype}{list(cu_seqlens.shape)}",
    )


def document_numbers(cu_seqlens: Tensor, tokens: int) -> Tensor:
    """int64[tokens]: the number of the document that each token belongs to.

    Entries repeated at the end of `cu_seqlens` (its padding) are empty documents.
    """
    indices = torch.arange(tokens, device=cu_seqlens.device, dtype=cu_seqlens.dtype)
    return torch.searchsorted(cu_seqlens, indices, right=True) - 1


def token_positions(cu_seqlens: Tensor, tokens: int) -> Tensor:
    """int32[tokens]: each token's position in its document, counted from 0."""
    indices = torch.arange(tokens, device=cu_seqlens.device, dtype=cu_seqlens.dtype)
    return indices - cu_seqlens[document_numbers(cu_seqlens, tokens)]
