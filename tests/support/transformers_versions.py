"""Differences between transformers 4.48, the oldest supported, and 5, hidden from the tests."""

from pathlib import Path
from typing import Any

import torch
import transformers
from packaging.version import Version
from torch import Tensor
from transformers import AutoModelForMaskedLM, PreTrainedModel

HAS_DTYPE = Version(transformers.__version__) >= Version("4.56")
HAS_ROPE_PARAMETERS = Version(transformers.__version__) >= Version("5")


def load_in(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Load the model of `folder` in `dtype` (casting it would also round its buffers)."""
    chosen = {"dtype" if HAS_DTYPE else "torch_dtype": dtype}
    return AutoModelForMaskedLM.from_pretrained(folder, **chosen).eval()


def rotary_bases(config: Any) -> tuple[float, float]:
    """Return the global and local RoPE bases as read by transformers."""
    if HAS_ROPE_PARAMETERS:
        found = {kind: value["rope_theta"] for kind, value in config.rope_parameters.items()}
        return found["full_attention"], found["sliding_attention"]
    return config.global_rope_theta, config.local_rope_theta


def kinds_of_layers(config: Any) -> list[str]:
    """Return `full_attention` or `sliding_attention` per layer, as read by transformers."""
    if HAS_ROPE_PARAMETERS:
        return list(config.layer_types)
    every, count = config.global_attn_every_n_layers, config.num_hidden_layers
    return ["sliding_attention" if n % every else "full_attention" for n in range(count)]


def logits_under_masks(
    model: PreTrainedModel, ids: Tensor, masks: dict[str, Tensor], positions: Tensor
) -> Tensor:
    """Return logits [1, T, vocabulary] under an attention mask [1, 1, T, T] per layer type.

    Masks are boolean, or added to the scores.
    """
    if hasattr(
        model.model, "_update_attention_mask"
    ):  # before 5 the model builds both masks itself

        def added(mask: Tensor) -> Tensor:
            if mask.dtype != torch.bool:
                return mask
            lowest = torch.finfo(model.dtype).min
            return torch.zeros(mask.shape, dtype=model.dtype).masked_fill(~mask, lowest)

        both = added(masks["full_attention"]), added(masks["sliding_attention"])
        model.model._update_attention_mask = lambda *_, **__: both
        return model(input_ids=ids, position_ids=positions).logits
    return model(input_ids=ids, attention_mask=masks, position_ids=positions).logits
