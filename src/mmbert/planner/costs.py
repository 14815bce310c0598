"""Parameters and arithmetic of a ModernBERT encoder, by part, from its sizes alone."""

from dataclasses import dataclass

from mmbert.recipe import ModelSettings


@dataclass(frozen=True)
class ParameterCount:
    """How many parameters each part of the model has; the decoder is tied to the embedding."""

    embedding: int
    attention: int
    feed_forward: int
    norms: int
    head: int
    decoder_bias: int

    @property
    def total(self) -> int:
        """All parameters, the tied decoder counted once."""
        return (
            self.embedding
            + self.attention
            + self.feed_forward
            + self.norms
            + self.head
            + self.decoder_bias
        )

    @property
    def without_embedding(self) -> int:
        """All but the embedding table."""
        return self.total - self.embedding

    @property
    def replicated(self) -> int:
        """Parameters that tensor parallelism does not split: every norm, and the head's dense."""
        return self.norms + self.head


def count_parameters(model: ModelSettings, vocabulary_size: int) -> ParameterCount:
    """Parameters of the encoder with its masked-language-model head."""
    d, f, layers = model.hidden_size, model.intermediate_size, model.num_hidden_layers
    return ParameterCount(
        embedding=vocabulary_size * d,
        attention=layers * 4 * d * d,
        feed_forward=layers * 3 * d * f,
        # The first layer has no attention norm; one norm follows the embedding, one the layers.
        norms=(2 * layers - 1) * d + 2 * d,
        head=d * d + d,
        decoder_bias=vocabulary_size,
    )


@dataclass(frozen=True)
class FlopsPerToken:
    """Training FLOPs (forward and backward, nothing recomputed) per token of a row, by part."""

    encoder: float
    head: float
    global_attention: float
    local_attention: float

    @property
    def total(self) -> float:
        """All parts together."""
        return self.encoder + self.head + self.global_attention + self.local_attention


def global_layers(model: ModelSettings) -> int:
    """How many layers attend to the whole document: every `global_attention_every`-th, from 0."""
    return len(range(0, model.num_hidden_layers, model.global_attention_every))


def flops_per_token(
    model: ModelSettings, vocabulary_size: int, mask_ratio: float, mean_length: float
) -> FlopsPerToken:
    """Training FLOPs per token.

    `mean_length` is the token-weighted mean document length, the sum of squared lengths over the
    sum of lengths: attention in a global layer costs 12·d times that. Three passes (forward, and
    two products backward) of 2 FLOPs a multiply-add. A local layer sees `local_window` + 1 keys,
    or the whole document where that is shorter.
    """
    d, f = model.hidden_size, model.intermediate_size
    layers, full = model.num_hidden_layers, global_layers(model)
    return FlopsPerToken(
        encoder=6.0 * layers * (4 * d * d + 3 * d * f),
        head=6.0 * mask_ratio * (d * d + d * vocabulary_size),
        global_attention=12.0 * d * full * mean_length,
        local_attention=12.0 * d * (layers - full) * min(model.local_window + 1, mean_length),
    )
