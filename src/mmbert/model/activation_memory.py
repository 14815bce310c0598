"""Analytical activation memory of one row, forward and backward.

Counts the tensors saved by autograd and the peak of temporary tensors; excludes weights, their
gradients, the optimizer and allocator fragmentation. Valid for the fused kernels and flash-type
attention, whose memory is linear in the tokens. A layer saves, in elements per token (d hidden,
f inner width):

    recompute   sharded with sequence parallelism only   always sharded over the group
    none        4d: both sums, both normed inputs        4d + 3f: q, k, v, attention's output,
                                                         gate and up, product
    selective   2d: norms are recomputed                 4d + 2f: GeGLU is recomputed
    full        d: the whole layer is recomputed         nothing
"""

from dataclasses import dataclass

from mmbert.model.config import EncoderConfig

# Maximum size of linear_cross_entropy's chunk of logits on a GPU.
LOGITS_CHUNK_BYTES = 2 << 30
FLOAT32 = 4
# FlashAttention accumulates the queries' gradients in float32, with this padding per document.
ROWS_BETWEEN_DOCUMENTS = 128


@dataclass(frozen=True)
class ActivationMemory:
    """Activation bytes on one device for one row."""

    layers: int
    """Saved for the backward pass by embeddings, layers and final norm."""
    head: int
    """Saved by the head and the cross-entropy, including the decoder's float32 gradient."""
    forward_peak: int
    """Peak of the forward pass, including saved tensors."""
    backward_peak: int
    """Peak of the backward pass, including saved tensors."""

    @property
    def kept(self) -> int:
        """Bytes alive between the forward and the backward pass."""
        return self.layers + self.head

    @property
    def peak(self) -> int:
        """Peak of both passes."""
        return max(self.forward_peak, self.backward_peak)


@dataclass(frozen=True)
class _Units:
    """Bytes of the individual tensors on one rank."""

    stream: int
    """[T, d], or the rank's shard of its tokens with sequence parallelism."""
    heads: int
    """[T, d] sharded over the group by heads."""
    inner: int
    """[T, f] sharded over the group."""
    gathered: int
    """[T, d] gathered before a linear with sequence parallelism; 0 without."""
    statistics: int
    """A norm's mean and rstd of every token."""
    log_sums: int
    """Attention's log-sum-exp of every token and head."""
    sums: int
    """Float32 accumulators of attention's backward pass: the queries' gradients, and one number per
    token and head; padded between documents."""


def activation_memory(
    config: EncoderConfig,
    *,
    row_tokens: int,
    masked_tokens: int,
    document_slots: int = 0,
    tensor_parallel: int = 1,
    sequence_parallel: bool = False,
    element_size: int = 2,
) -> ActivationMemory:
    """Return the activation memory of one rank for one row.

    Args:
        config: the model.
        row_tokens: tokens of the row.
        masked_tokens: mask slots of the row.
        document_slots: length of cu_seqlens minus one, including unused slots. FlashAttention 2
            allocates memory for each slot in its backward pass (flash_api.cpp, mha_varlen_bwd:
            dq_accum and softmax_d). 0 for attention that accumulates in the gradients, as on CPUs.
        tensor_parallel: size of the tensor group.
        sequence_parallel: whether tokens are sharded outside attention and MLP.
        element_size: bytes per element of the model's dtype (2 for bfloat16).
    """
    token_split = tensor_parallel if sequence_parallel else 1
    whole = row_tokens * config.hidden_size * element_size
    gaps = ROWS_BETWEEN_DOCUMENTS * document_slots
    per_token = (config.hidden_size + config.num_attention_heads) * FLOAT32 // tensor_parallel
    units = _Units(
        stream=whole // token_split,
        heads=whole // tensor_parallel,
        inner=row_tokens * config.intermediate_size * element_size // tensor_parallel,
        gathered=whole if token_split > 1 else 0,
        statistics=2 * row_tokens * FLOAT32 // token_split,
        log_sums=row_tokens * config.num_attention_heads * FLOAT32 // tensor_parallel,
        sums=(row_tokens + gaps) * per_token if document_slots else 0,
    )
    layers = _kept_by_layers(config, units, table_is_split=tensor_parallel > 1)

    vocabulary = -(-config.vocab_size // tensor_parallel)
    table = vocabulary * config.hidden_size * element_size
    rows = masked_tokens * config.hidden_size * element_size
    # Saved rows (gathered, after dense, after GELU) and the gradient of the decoder's input.
    head = 4 * rows + vocabulary * (config.hidden_size + 1) * FLOAT32
    chunk = min(LOGITS_CHUNK_BYTES, masked_tokens * vocabulary * element_size)

    # The last hidden states stay allocated while the head processes the masked positions.
    in_head = units.stream + head + chunk + 2 * rows
    forward_peak = layers + max(_layer_forward(config, units), in_head)
    # Backward: first the decoder's gradients are cast to the model's dtype (in place in float32);
    # then the last layer runs, while the table's gradient waits for the embedding's and the tensors
    # saved by the final norm have been freed.
    scaled = table if element_size < FLOAT32 else 0
    last_layer = table + _layer_backward(config, units) - units.stream
    backward_peak = layers + max(head + scaled + 2 * rows, last_layer)
    return ActivationMemory(layers, head, forward_peak, backward_peak)


def _kept_by_layers(config: EncoderConfig, units: _Units, *, table_is_split: bool) -> int:
    count = config.num_hidden_layers
    if config.recompute == "full":
        kept = count * units.stream
    else:
        # The first layer has no norm before attention; the attention's input is the saved stream.
        kept = count * _layer_kept(config, units) - units.statistics
        if config.recompute == "none":
            kept -= units.stream
    # The final norm's sum and statistics, the embedding norm's statistics and, for a sharded table
    # (no fused look-up), the embedding norm's input rows.
    return kept + (2 if table_is_split else 1) * units.stream + 2 * units.statistics


def _layer_kept(config: EncoderConfig, units: _Units) -> int:
    """Return the bytes saved by a layer (table in the module's docstring).

    With `full`, the bytes saved during its recomputation; one of the sums is the saved input.
    """
    kept = 4 * units.heads + 2 * units.statistics + units.log_sums
    if config.recompute == "selective":
        return kept + 2 * units.stream + 2 * units.inner
    if config.recompute == "full":
        return kept + 3 * units.stream + 3 * units.inner
    return kept + 4 * units.stream + 3 * units.inner


def _layer_forward(config: EncoderConfig, units: _Units) -> int:
    """Return the peak of the last layer's forward pass, excluding saved tensors."""
    if config.recompute == "full":
        attention = 6 * units.heads + units.gathered
        feed_forward = 2 * units.stream + 3 * units.inner
        return max(attention, feed_forward)
    unkept = units.inner + units.stream if config.recompute == "selective" else 0
    # Gate, up, their product, the normed input and the update; then update and normed output in the
    # final norm, whose sum is counted as saved.
    return max(units.stream + unkept, 2 * units.stream)


def _layer_backward(config: EncoderConfig, units: _Units) -> int:
    """Return the peak of the last layer's backward pass, relative to the saved tensors."""
    selective = config.recompute == "selective"
    # Tensors freed after use, and tensors recomputed before use.
    freed, rebuilt = (0, units.inner) if selective else (units.inner, 0)
    rebuilt_norm = units.stream if selective else 0
    second_linear = 2 * units.stream + units.inner + rebuilt + units.gathered
    gated_unit = units.stream + 3 * units.inner - freed
    first_linear = units.stream + max(units.stream, units.gathered) + units.gathered
    first_linear += rebuilt_norm - freed
    # Attention: the gradients of the stream, of its output and of its three arguments, after the
    # tensors saved by the MLP and by its norm (sum and, if saved, output) have been freed.
    gone = 2 * units.inner + units.stream if selective else 3 * units.inner + 2 * units.stream
    attention = units.stream + 4 * units.heads + units.sums - gone
    running_again = _layer_kept(config, units) if config.recompute == "full" else 0
    return running_again + max(second_linear, gated_unit, first_linear, attention)
