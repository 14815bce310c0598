"""Peak memory of one device by part, for a tensor-parallel size and ZeRO stage."""

from dataclasses import dataclass

from mmbert.model.activation_memory import activation_memory
from mmbert.model.config import EncoderConfig
from mmbert.parallel.zero_buffers import BUCKET_ELEMENTS, MAX_LIVE_PARAMETERS
from mmbert.planner.parameter_count import ParameterCount

# Reserve for the driver, NCCL and allocator fragmentation; `mmbert plan` prints the remainder.
RESERVE_BYTES = 3 << 30
RESERVE_FRACTION = 0.05


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes on one device at the peak of a step, by part.

    `activations` are saved for the backward pass; `working` is the largest temporary memory on top
    of them: logits, intermediate gradients, communication buffers.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    working: int

    @property
    def states(self) -> int:
        """Persistent memory: weights, gradients and optimizer states."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> int:
        """Peak memory of a step."""
        return self.states + self.activations + self.working


def usable_bytes(memory_bytes: int) -> int:
    """Return `memory_bytes` less a reserve of 3 GiB and 5%."""
    return int(memory_bytes * (1 - RESERVE_FRACTION)) - RESERVE_BYTES


def local_parameters(parameters: ParameterCount, tensor: int) -> int:
    """Return the parameters per tensor rank; norms and the head's dense layer are replicated."""
    split = parameters.total - parameters.replicated
    return -(-split // tensor) + parameters.replicated


def device_memory(
    config: EncoderConfig,
    parameters: ParameterCount,
    *,
    row_tokens: int,
    masked_tokens: int,
    document_slots: int,
    tensor: int,
    data: int,
    sequence: bool,
    zero_stage: int,
    compute_bytes: int,
    optimizer_bytes: int,
    matrix_bytes_saved: int = 0,
    exchange_bytes: int = 0,
) -> DeviceMemory:
    """Estimate the peak memory of one device in bytes.

    `compute_bytes` is 2 in bfloat16 and 4 in float32; `data` is the number of data ranks. A row has
    `masked_tokens` mask slots and at most `document_slots` documents. `optimizer_bytes` counts the
    float32 master and the optimizer states of a parameter; where matrices have fewer states,
    `matrix_bytes_saved` is what the rank with the fewest of their elements saves. `exchange_bytes`
    are those of Muon's messages on one rank, in the step, when activations are freed. Accumulated
    gradients are float32. ZeRO 1 shards masters and optimizer states over the data ranks, ZeRO 2
    also gradients, ZeRO 3 also weights. Under ZeRO 3, a device holds its shard, the embedding
    (shared with the decoder) and one layer in full, and other parameters up to the resident limit
    during the passes.
    """
    local = local_parameters(parameters, tensor)
    shard = -(-local // data)
    passes = activation_memory(
        config,
        row_tokens=row_tokens,
        masked_tokens=masked_tokens,
        document_slots=document_slots,
        tensor_parallel=tensor,
        sequence_parallel=sequence and tensor > 1,
        element_size=compute_bytes,
    )
    gathered = live = 0
    if zero_stage == 3:
        layer = (parameters.attention + parameters.feed_forward) // config.num_hidden_layers
        gathered = compute_bytes * (parameters.embedding + layer) // tensor
        live = max(0, compute_bytes * min(local, MAX_LIVE_PARAMETERS) - gathered)
    # ZeRO 2 and 3 reduce a bucket during the backward pass. ZeRO 1 reduces in place (in float32
    # with a bucket, after the activations are freed); ZeRO 2 and 3 flatten their shard before the
    # step.
    bucket = 4 * min(local, BUCKET_ELEMENTS)
    reduction = bucket if zero_stage == 1 else 4 * shard
    bucket = bucket if zero_stage >= 2 else 0
    step = reduction + exchange_bytes
    working = max(passes.peak - passes.kept + bucket + live, step - passes.kept, 0)
    return DeviceMemory(
        weights=compute_bytes * (shard if zero_stage == 3 else local) + gathered,
        gradients=4 * (shard if zero_stage >= 2 else local),
        optimizer=optimizer_bytes * shard - matrix_bytes_saved,
        activations=passes.kept,
        working=working,
    )
