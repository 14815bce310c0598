"""Configuration of the encoder and its check against the tensor group."""

from dataclasses import dataclass, fields
from typing import Literal

from mmbert.errors import RecipeError
from mmbert.recipe import ModelSettings
from mmbert.recipe.division import not_divided_by_tensor

Recompute = Literal["none", "selective", "full"]

# Fixed properties of the architecture, with the keys and defaults of Hugging Face's config.json.
FIXED_BY_ARCHITECTURE: dict[str, object] = {
    "hidden_activation": "gelu",
    "classifier_activation": "gelu",  # of the masked-language-model head
    "norm_bias": False,
    "attention_bias": False,
    "mlp_bias": False,
    "classifier_bias": False,
    "decoder_bias": True,
    "tie_word_embeddings": True,
}
LARGEST_NUMBER = 1e30
"""Above any in a config.json; keeps integers within the range of floats."""


@dataclass(frozen=True)
class EncoderConfig:
    """Configuration of a ModernBERT encoder with its masked-language-model head."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    """Inner width of the gated MLP; its first linear has twice as many outputs."""
    num_hidden_layers: int
    num_attention_heads: int
    global_attention_every: int = 3
    local_window: int = 128
    """Width of local attention in tokens, half to each side."""
    norm_eps: float = 1e-5
    attention_output_dropout: float = 0.1
    initializer_range: float = 0.02
    recompute: Recompute = "none"

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    def attends_globally(self, layer: int) -> bool:
        """Whether `layer` uses global attention; the others use the local window."""
        return layer % self.global_attention_every == 0


def encoder_config(settings: ModelSettings, vocab_size: int) -> EncoderConfig:
    """Build the configuration from the recipe's model and the tokenizer's vocabulary size.

    RecipeError if the recipe sets a different vocabulary size.
    """
    if settings.vocab_size is not None and settings.vocab_size != vocab_size:
        raise RecipeError(
            f"model.vocab_size is {settings.vocab_size}, but the tokenizer has {vocab_size} ids",
            remedy="remove model.vocab_size from the recipe, or use the matching tokenizer",
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
    """Raise RecipeError if the model cannot be sharded over `tensor_parallel` ranks.

    The number of heads, the inner width and, with sequence parallelism, the tokens of a row (None
    if unknown) must be divisible. The vocabulary need not be, but must have an id for every rank.
    """
    found = not_divided_by_tensor(
        tensor_parallel,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        row_tokens=row_tokens if sequence_parallel else None,
    )
    if found is not None:
        key, value = found
        raise RecipeError(
            f"{key} ({value}) must be divisible by parallel.tensor ({tensor_parallel})",
            remedy=f"set parallel.tensor to a divisor of {value}, or change {key}",
        )
    if config.vocab_size < tensor_parallel:
        raise RecipeError(
            f"the vocabulary ({config.vocab_size}) is smaller than parallel.tensor "
            f"({tensor_parallel})",
            remedy="use a smaller parallel.tensor",
        )
