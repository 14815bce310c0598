"""The encoder's configuration, read from a live Hugging Face model."""

from typing import Any

from torch import nn

from mmbert.errors import ModelError
from mmbert.hub.configuration import HuggingFaceModel, model_of
from mmbert.model.config import FIXED_BY_ARCHITECTURE

_IN_THE_ENCODER = ("hidden_activation", "norm_bias", "attention_bias", "mlp_bias")


def read_live_configuration(model: nn.Module, *, has_our_head: bool) -> HuggingFaceModel:
    """Read `model.config`.

    `has_our_head`: whether the masked-language-model head is computed by ours too, and not by the
    model's own modules. Raises ModelError for a variant of ModernBERT that is not supported.
    """
    keys = FIXED_BY_ARCHITECTURE if has_our_head else _IN_THE_ENCODER
    fixed = {
        # Tied or not, the head is given the weights of the live decoder.
        key: FIXED_BY_ARCHITECTURE[key]
        for key in keys
        if key != "tie_word_embeddings"
    }
    config: Any = model.config
    where = f"the configuration of {type(model).__name__}"
    try:
        return model_of(config.to_dict(), where, fixed)
    except ModelError as error:
        raise ModelError(
            error.message, remedy="use this model unpacked: ours would compute something else"
        ) from error
