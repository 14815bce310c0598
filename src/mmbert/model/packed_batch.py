"""Inputs of the model's forward pass: one row of packed documents, and what all layers share."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmbert.recipe import RotaryBases


@dataclass(frozen=True)
class PackedBatch:
    """A row of T tokens: concatenated documents with K masked positions.

    In a causal phase no token is masked: these are the positions whose next tokens are predicted.

    Every tensor rank must receive the same row. T and K are the same for all rows of a phase. S,
    the number of document slots, takes one of a few values.
    """

    input_ids: Tensor
    """int64 [T]: token ids after masking."""
    cu_seqlens: Tensor
    """int32 [S + 1]: start of each document, from 0 to T; trailing entries may repeat T."""
    max_seqlen: int
    """Upper bound of the documents' lengths."""
    masked_positions: Tensor
    """int64 [K]: positions in the row, sorted."""
    labels: Tensor
    """int64 [K]: original or next tokens (any valid id where the weight is 0)."""
    weights: Tensor
    """float32 [K]: 1, or 0 for unused slots."""
    row_index: int
    """Index of the row in the training run; determines the dropout masks."""

    def to(self, device: torch.device | str) -> "PackedBatch":
        """Copy the row to `device`, asynchronously from pinned memory."""
        return PackedBatch(
            input_ids=self.input_ids.to(device, non_blocking=True),
            cu_seqlens=self.cu_seqlens.to(device, non_blocking=True),
            max_seqlen=self.max_seqlen,
            masked_positions=self.masked_positions.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            weights=self.weights.to(device, non_blocking=True),
            row_index=self.row_index,
        )


@dataclass(frozen=True)
class PackedSequenceInfo:
    """Per-row inputs shared by all layers: sequence boundaries, RoPE bases, dropout state."""

    cu_seqlens: Tensor
    max_seqlen: int
    rotary_bases: RotaryBases
    dropout: float = 0.0
    dropout_seed: int | None = None
    first_token: int = 0
    """Index of this rank's first token in the whole training run."""
    causal: bool = False
    """Whether tokens attend to no later ones of their document."""
