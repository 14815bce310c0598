"""The encoder's sizes, as the model is built from them, and whether a tensor group can hold it."""

from dataclasses import dataclass, fields
from typing import Literal

from mmbert.errors import UserError
from mmbert.recipe import ModelSettings
from mmbert.recipe.division import not_divided_by_tensor

Recompute = Literal["none", "selective", "full"]

# What every ModernBERT here is, by the keys of Hugging Face's config.json (and its defaults there).
FIXED_BY_ARCHITECTURE: dict[str, object] = {
    "hidden_activation": "gelu",
    "classifier_activation": "gelu",  # that of the masked-language-model head
    "norm_bias": False,
    "attention_bias": False,
    "mlp_bias": False,
    "classifier_bias": False,
    "decoder_bias": True,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True)
class EncoderConfig:
    """A ModernBERT encoder with its masked-language-model head."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    """Width of the gated unit's inner layer; the first linear has twice as many outputs."""
    num_hidden_layers: int
    num_attention_heads: int
    global_attention_every: int = 3
    local_window: int = 128
    """Width of local attention in tokens, half of it to each side."""
    norm_eps: float = 1e-5
    attention_output_dropout: float = 0.1
    initializer_range: float = 0.02
    recompute: Recompute = "none"

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    def attends_globally(self, layer: int) -> bool:
        """Whether this layer sees whole documents; the others see the local window."""
        return layer % self.global_attention_every == 0


def encoder_config(settings: ModelSettings, vocab_size: int) -> EncoderConfig:
    """The recipe's model with the tokenizer's vocabulary size.

    UserError if the recipe names another vocabulary size than the tokenizer has.
    """
    if settings.vocab_size is not None and settings.vocab_size != vocab_size:
        raise UserError(
            f"model.vocab_size is {settings.vocab_size}, but the tokenizer has {vocab_size} ids",
            remedy="leave model.vocab_size out of the recipe, or use the tokenizer it is meant for",
        )
    names = {field.name for field in fields(EncoderConfig)} - {"vocab_size"}
    return EncoderConfig(vocab_size, **{name: getattr(settings, name) for name in names})


def check_parallel(
    config: EncoderConfig,
    *,
    tensor_parallel: int,
    sequence_parallel: bool,
    row_tokens: int | None = None,
) -> None:
    """UserError, before anything starts, if a group of `tensor_parallel` cannot hold the model.

    Heads and widths must divide; with sequence parallelism so must the tokens of a row (None: not
    known here). The vocabulary need not, but every rank must get some of it.
    """
    found = not_divided_by_tensor(
        tensor_parallel,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        row_tokens=row_tokens if sequence_parallel else None,
    )
    if found is not None:
        key, value = found
        raise UserError(
            f"{key} is {value}, which does not divide by parallel.tensor = {tensor_parallel}",
            remedy=f"choose parallel.tensor among the divisors of {value}, or change {key}",
        )
    if config.vocab_size < tensor_parallel:
        raise UserError(
            f"a vocabulary of {config.vocab_size} cannot be spread over {tensor_parallel} ranks",
            remedy="use a smaller parallel.tensor",
        )
