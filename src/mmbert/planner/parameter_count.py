"""Parameters and FLOPs of a ModernBERT encoder by part, computed from its sizes."""

from dataclasses import dataclass

from mmbert.model.flops import Flops, flops_by_part
from mmbert.recipe import ModelSettings


@dataclass(frozen=True)
class ParameterCount:
    """Number of parameters of each part of the model; the decoder is tied to the embedding."""

    embedding: int
    attention: int
    feed_forward: int
    norms: int
    head: int
    decoder_bias: int
    matrices: int
    """Those of them in matrices: attention, feed-forward, and the head's dense layer."""
    matrix_rows: int
    """Rows of all matrices; query, key and value, and gate and up, are matrices of their own."""

    @property
    def total(self) -> int:
        """Number of all parameters, counting the tied decoder once."""
        return (
            self.embedding
            + self.attention
            + self.feed_forward
            + self.norms
            + self.head
            + self.decoder_bias
        )

    @property
    def replicated(self) -> int:
        """Parameters replicated by tensor parallelism: norms and the head's dense layer."""
        return self.norms + self.head


def count_parameters(model: ModelSettings, vocabulary_size: int) -> ParameterCount:
    """Count the parameters of the encoder with its masked-language-model head."""
    d, f, layers = model.hidden_size, model.intermediate_size, model.num_hidden_layers
    return ParameterCount(
        embedding=vocabulary_size * d,
        attention=layers * 4 * d * d,
        feed_forward=layers * 3 * d * f,
        # The first layer has no attention norm; the embedding and the last layer have one each.
        norms=(2 * layers - 1) * d + 2 * d,
        head=d * d + d,
        decoder_bias=vocabulary_size,
        matrices=layers * (4 * d * d + 3 * d * f) + d * d,
        matrix_rows=layers * (5 * d + 2 * f) + d,
    )


def flops_per_token(
    model: ModelSettings,
    vocabulary_size: int,
    predicted_fraction: float,
    mean_length: float,
    *,
    causal: bool = False,
) -> Flops:
    """Return the training FLOPs per token of a row, by the formulas of `mmbert.model.flops`.

    `mean_length` is the token-weighted mean document length: the sum of squared lengths over the
    sum of lengths. A row of documents of that length costs the same as the actual row, except for
    documents shorter than the local window.
    """
    masked = predicted_fraction * mean_length
    flops = flops_by_part(model, vocabulary_size, [mean_length], masked, causal=causal)
    return flops.per(mean_length)
