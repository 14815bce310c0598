"""A row as the tensors that the model's forward takes."""

from __future__ import annotations

import numpy as np
import torch

from mmbert.data.rows import Row
from mmbert.model.batch import PackedBatch


def to_batch(row: Row, device: torch.device | str = "cpu") -> PackedBatch:
    """The row as a PackedBatch on `device`: int64 ids, positions and labels, float32 weights.

    On a GPU the copies leave pinned memory and do not wait.
    """
    on_gpu = torch.device(device).type == "cuda"

    def tensor(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
        value = torch.from_numpy(array).to(dtype, copy=True)
        return value.pin_memory() if on_gpu else value

    batch = PackedBatch(
        input_ids=tensor(row.input_ids, torch.int64),
        cu_seqlens=tensor(row.cu_seqlens, torch.int32),
        max_seqlen=row.max_seqlen,
        masked_positions=tensor(row.masked_positions, torch.int64),
        labels=tensor(row.labels, torch.int64),
        weights=tensor(row.weights, torch.float32),
        row_index=row.index,
    )
    return batch.to(device) if on_gpu else batch
