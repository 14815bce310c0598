"""Our own model in float32 from parameters that come one by one, and packed rows to try it on."""

from collections.abc import Iterable, Sequence

import torch

from mmbert.model.batch import PackedBatch
from mmbert.model.config import EncoderConfig
from mmbert.model.modernbert import MaskedLanguageModel
from mmbert.parallel.grid import TensorGroup


def build_model(
    config: EncoderConfig, parameters: Iterable[tuple[str, torch.Tensor]]
) -> MaskedLanguageModel:
    """The whole model on the CPU in float32, ready to evaluate.

    ValueError if a parameter is unknown, missing, or of another shape.
    """
    with torch.device("cpu"):
        model = MaskedLanguageModel(config, TensorGroup.single(), sequence_parallel=False)
    missing = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in parameters:
            if name not in missing:
                raise ValueError(f"{name} is unknown or came twice")
            target = missing.pop(name)
            if target.shape != tensor.shape:
                raise ValueError(f"{name} has shape {list(tensor.shape)}, not {list(target.shape)}")
            target.copy_(tensor)
    if missing:
        raise ValueError(f"no values came for {', '.join(missing)}")
    return model.eval().requires_grad_(False)


def pack(documents: Sequence[torch.Tensor]) -> PackedBatch:
    """Documents (int64 token ids) end to end as one row with no masked positions."""
    lengths = torch.tensor([len(document) for document in documents])
    cu_seqlens = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]).int()
    return PackedBatch(
        input_ids=torch.cat(list(documents)),
        cu_seqlens=cu_seqlens,
        max_seqlen=int(lengths.max()),
        masked_positions=torch.zeros(0, dtype=torch.int64),
        labels=torch.zeros(0, dtype=torch.int64),
        weights=torch.zeros(0, dtype=torch.float32),
        row_index=0,
    )
