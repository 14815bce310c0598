"""What one row's forward and backward pass take in activations on a device, by formula.

Counted are the tensors that autograd keeps and the largest of what lives beside them for a
moment; not counted are weights, their gradients and the optimiser, nor what an allocator loses.
The numbers hold for the fused kernels and flash-type attention, whose memory is linear in the
tokens. A layer keeps, in numbers per token (d hidden, f inner width):

    recompute   split with sequence parallelism only     always split over the group
    none        4d: both sums, both normed inputs        4d + 3f: q, k, v, attention's output,
                                                         gate and up, product
    selective   2d: the norms run again                  4d + 2f: so does GeGLU
    full        d: all of the layer runs again           nothing
"""

from dataclasses import dataclass

from mmbert.model.config import EncoderConfig

# What linear_cross_entropy lets a chunk of logits take on a GPU.
LOGITS_CHUNK_BYTES = 2 << 30
FLOAT32 = 4
# FlashAttention adds the queries' gradients up in float32, with so many rows between documents.
ROWS_BETWEEN_DOCUMENTS = 128


@dataclass(frozen=True)
class ActivationMemory:
    """Bytes on one device for one row."""

    layers: int
    """Kept for the backward pass by embeddings, layers and final norm."""
    head: int
    """Kept by the head and the cross-entropy, the decoder's float32 gradient included."""
    forward_peak: int
    """The most that lives at once in the forward pass, all that is kept included."""
    backward_peak: int
    """The most that lives at once in the backward pass, all that is kept included."""

    @property
    def kept(self) -> int:
        """All that lives between the forward and the backward pass."""
        return self.layers + self.head

    @property
    def peak(self) -> int:
        """The most that lives at once."""
        return max(self.forward_peak, self.backward_peak)


@dataclass(frozen=True)
class _Units:
    """Bytes of the tensors that the passes are made of, on one rank."""

    stream: int
    """[T, d], or the rank's tokens of it with sequence parallelism."""
    heads: int
    """[T, d] split over the group by heads."""
    inner: int
    """[T, f] split over the group."""
    gathered: int
    """[T, d] that sequence parallelism gathers before a linear; 0 without."""
    statistics: int
    """A norm's mean and deviation of every token."""
    log_sums: int
    """Attention's logarithm of a sum for every token and head."""
    sums: int
    """What attention's backward pass adds up in float32: the queries' gradients, and a number for
    every token and head; with gaps between documents."""


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
    """Activation memory of one rank for a row of `row_tokens` with `masked_tokens` mask slots.

    `document_slots`: entries of cu_seqlens but one, filled or not, which FlashAttention 2 takes
    memory for in its backward pass (flash_api.cpp, mha_varlen_bwd: dq_accum and softmax_d); 0 for
    an attention that adds up in the gradients themselves, as that on CPUs. `element_size`: bytes of
    the dtype that the model computes in (2 for bfloat16).
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
    # Rows gathered, after dense, after GELU; the gradient of what the decoder takes.
    head = 4 * rows + vocabulary * (config.hidden_size + 1) * FLOAT32
    chunk = min(LOGITS_CHUNK_BYTES, masked_tokens * vocabulary * element_size)

    # The last hidden states live on while the head works on some of them.
    in_head = units.stream + head + chunk + 2 * rows
    forward_peak = layers + max(_layer_forward(config, units), in_head)
    # Backward: first the decoder's gradients go into the model's dtype (in place in float32), then
    # the last layer runs, while the table's gradient waits for that of the embedding and what the
    # final norm kept is gone.
    scaled = table if element_size < FLOAT32 else 0
    last_layer = table + _layer_backward(config, units) - units.stream
    backward_peak = layers + max(head + scaled + 2 * rows, last_layer)
    return ActivationMemory(layers, head, forward_peak, backward_peak)


def _kept_by_layers(config: EncoderConfig, units: _Units, *, table_is_split: bool) -> int:
    count = config.num_hidden_layers
    if config.recompute == "full":
        kept = count * units.stream
    else:
        # The first layer has no norm before its attention, whose input is kept as the stream.
        kept = count * _layer_kept(config, units) - units.statistics
        if config.recompute == "none":
            kept -= units.stream
    # The final norm's sum and statistics, the embedding norm's statistics and, where the fused
    # lookup does not serve because the table is split, the rows that it takes.
    return kept + (2 if table_is_split else 1) * units.stream + 2 * units.statistics


def _layer_kept(config: EncoderConfig, units: _Units) -> int:
    """Kept by a layer: the table in this file's heading; with `full`, while it runs again (then one
    of the sums is what was kept)."""
    kept = 4 * units.heads + 2 * units.statistics + units.log_sums
    if config.recompute == "selective":
        return kept + 2 * units.stream + 2 * units.inner
    if config.recompute == "full":
        return kept + 3 * units.stream + 3 * units.inner
    return kept + 4 * units.stream + 3 * units.inner


def _layer_forward(config: EncoderConfig, units: _Units) -> int:
    """The largest of what the last layer's forward pass holds beside what is kept in the end."""
    if config.recompute == "full":
        attention = units.stream + 6 * units.heads + units.gathered
        feed_forward = 3 * units.stream + 3 * units.inner
        return max(attention, feed_forward)
    unkept = units.inner + units.stream if config.recompute == "selective" else 0
    # Gate, up, their product, what the norm gave and the update; then update and normed output in
    # the final norm, whose sum is counted as kept.
    return max(units.stream + unkept, 2 * units.stream)


def _layer_backward(config: EncoderConfig, units: _Units) -> int:
    """The largest of what the last layer's backward pass holds beside what was kept."""
    selective = config.recompute == "selective"
    # What is freed once used, and what is made again before it is used.
    freed, rebuilt = (0, units.inner) if selective else (units.inner, 0)
    rebuilt_norm = units.stream if selective else 0
    second_linear = 2 * units.stream + units.inner + rebuilt + units.gathered
    gated_unit = units.stream + 3 * units.inner - freed
    first_linear = units.stream + max(units.stream, units.gathered) + units.gathered
    first_linear += rebuilt_norm - freed
    # Attention: the gradients of the stream, of its output and of its three arguments, when all
    # that the feed-forward part kept is gone, and its norm's sum (and output, where it was kept).
    gone = 2 * units.inner + units.stream if selective else 3 * units.inner + 2 * units.stream
    attention = units.stream + 4 * units.heads + units.sums - gone
    running_again = _layer_kept(config, units) if config.recompute == "full" else 0
    return running_again + max(second_linear, gated_unit, first_linear, attention)
