"""Conversion of a row to the tensors of the model's forward pass."""

from __future__ import annotations

import numpy as np
import torch

from mmbert.data.loading.packing import slots_for
from mmbert.data.loading.rows import Row
from mmbert.model.packed_batch import PackedBatch


def to_batch(row: Row, device: torch.device | str = "cpu") -> PackedBatch:
    """Convert a row to a PackedBatch on `device`: int64 ids, positions, labels; float32 weights.

    Keeps the segment slots in use and a few empty ones (`slots_for`). Copies to a GPU are
    asynchronous, from pinned memory.
    """
    on_gpu = torch.device(device).type == "cuda"

    def tensor(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
        value = torch.from_numpy(array).to(dtype, copy=True)
        return value.pin_memory() if on_gpu else value

    batch = PackedBatch(
        input_ids=tensor(row.input_ids, torch.int64),
        cu_seqlens=tensor(_without_empty_slots(row.cu_seqlens), torch.int32),
        max_seqlen=row.max_seqlen,
        masked_positions=tensor(row.masked_positions, torch.int64),
        labels=tensor(row.labels, torch.int64),
        weights=tensor(row.weights, torch.float32),
        row_index=row.index,
    )
    return batch.to(device) if on_gpu else batch


def _without_empty_slots(cu_seqlens: np.ndarray) -> np.ndarray:
    """Truncate `cu_seqlens` to the slots in use and the few empty ones that `slots_for` keeps."""
    used = int(np.searchsorted(cu_seqlens, cu_seqlens[-1]))
    return cu_seqlens[: slots_for(used, len(cu_seqlens) - 1) + 1]
