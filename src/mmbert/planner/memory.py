"""Memory of one device by part, for a tensor-parallel size, a ZeRO stage and a way to recompute."""

from dataclasses import dataclass

from mmbert.planner.costs import ParameterCount
from mmbert.recipe import ModelSettings

# Rows of logits that the fused head has in memory at a time, in float32 (see the kernels' linear
# cross-entropy); what the driver, NCCL and the allocator's fragments take is an assumption.
HEAD_CHUNK_ROWS = 4096
RESERVE_BYTES = 3 << 30
RESERVE_SHARE = 0.05


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes on one device at the peak of a step, by part."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    head: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.head


def usable_bytes(memory_bytes: int) -> int:
    """What a device of `memory_bytes` leaves to the program: less a reserve and a twentieth."""
    return int(memory_bytes * (1 - RESERVE_SHARE)) - RESERVE_BYTES


def local_parameters(parameters: ParameterCount, tensor: int) -> int:
    """Parameters on one of `tensor` ranks; norms and the head's dense are on every one."""
    split = parameters.total - parameters.replicated
    return -(-split // tensor) + parameters.replicated


def device_memory(
    model: ModelSettings,
    parameters: ParameterCount,
    *,
    vocabulary_size: int,
    row_tokens: int,
    masked_tokens: int,
    tensor: int,
    data: int,
    sequence: bool,
    zero_stage: int,
    compute_bytes: int,
) -> DeviceMemory:
    """Peak bytes on one device.

    `compute_bytes` is 2 in bfloat16 and 4 in float32; `data` the number of data ranks;
    `masked_tokens` the mask slots of a row. Master weights, both moments and the accumulated
    gradients are float32. ZeRO 1 spreads the masters and moments over the data ranks, 2 the
    gradients too, 3 the weights as well.
    """
    local = local_parameters(parameters, tensor)
    share = -(-local // data)
    # In float32 the weights are their own masters unless ZeRO keeps a partition apart: it does.
    weights = compute_bytes * (share if zero_stage == 3 else local)
    gradients = 4 * (share if zero_stage >= 2 else local)
    # While the backward pass runs, each weight's gradient also exists once in the compute dtype;
    # ZeRO 2 and 3 hand it on bucket by bucket.
    if zero_stage == 1:
        gradients += compute_bytes * local
    return DeviceMemory(
        weights=weights,
        gradients=gradients,
        optimizer=12 * share,
        activations=activation_bytes(
            model,
            row_tokens=row_tokens,
            tensor=tensor,
            sequence=sequence,
            compute_bytes=compute_bytes,
        ),
        head=head_bytes(
            model,
            vocabulary_size=vocabulary_size,
            masked_tokens=masked_tokens,
            tensor=tensor,
            compute_bytes=compute_bytes,
        ),
    )


def activation_bytes(
    model: ModelSettings, *, row_tokens: int, tensor: int, sequence: bool, compute_bytes: int
) -> int:
    """What one row's forward pass keeps for its backward pass, outside the head.

    Per token and layer, in numbers of the compute dtype: the residual and the normed input before
    attention and before the feed-forward part (4·d; split over the tensor group only under
    sequence parallelism), the rotated queries, keys and values (3·d), attention's output (d), the
    gate and up halves (2·f) and their product (f), all split. `selective` recomputes the normed
    inputs and the feed-forward product, which cost little arithmetic; `full` keeps only each
    layer's input, and one layer's activations while it is recomputed.
    """
    d, f, layers = model.hidden_size, model.intermediate_size, model.num_hidden_layers
    token_split = tensor if sequence else 1
    residual = 2 * d / token_split
    normed = 2 * d / token_split
    inner = (4 * d + 2 * f) / tensor
    product = f / tensor
    everything = residual + normed + inner + product
    if model.recompute == "full":
        per_token = layers * d / token_split + everything
    elif model.recompute == "selective":
        per_token = layers * (residual + inner) + normed + product
    else:
        per_token = layers * everything
    return int(row_tokens * per_token * compute_bytes)


def head_bytes(
    model: ModelSettings,
    *,
    vocabulary_size: int,
    masked_tokens: int,
    tensor: int,
    compute_bytes: int,
) -> int:
    """The masked-language-model head: hidden states of masked tokens and one chunk of logits.

    The logits of a chunk exist once in float32 and once in the compute dtype (their gradient), and
    the tied embedding's gradient is accumulated in float32.
    """
    d = model.hidden_size
    local_vocabulary = -(-vocabulary_size // tensor)
    hidden = 4 * masked_tokens * d * compute_bytes
    logits = min(HEAD_CHUNK_ROWS, masked_tokens) * local_vocabulary * (4 + compute_bytes)
    return hidden + logits + 4 * local_vocabulary * d
