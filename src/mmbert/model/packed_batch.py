"""One row of packed documents as tensors: what the model's forward takes."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PackedBatch:
    """A row of T tokens: documents laid end to end, with K masked positions.

    Every tensor rank must get the same row. T and K are the same for all rows of a phase; S is the
    number of documents with a few empty slots, so that it takes few values.
    """

    input_ids: Tensor
    """int64[T], with the masks in."""
    cu_seqlens: Tensor
    """int32[S + 1]: where each document starts, from 0 to T; trailing entries may repeat T."""
    max_seqlen: int
    """No document is longer than this."""
    masked_positions: Tensor
    """int64[K]: positions in the row, none lower than the one before."""
    labels: Tensor
    """int64[K]: the tokens that were there (any valid id where the weight is 0)."""
    weights: Tensor
    """float32[K]: 1, or 0 for a slot that is not used."""
    row_index: int
    """The row's number in the whole training run; dropout masks depend on it."""

    def to(self, device: torch.device | str) -> "PackedBatch":
        """The same row on `device`; from pinned memory without waiting."""
        return PackedBatch(
            input_ids=self.input_ids.to(device, non_blocking=True),
            cu_seqlens=self.cu_seqlens.to(device, non_blocking=True),
            max_seqlen=self.max_seqlen,
            masked_positions=self.masked_positions.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            weights=self.weights.to(device, non_blocking=True),
            row_index=self.row_index,
        )
