"""Memory of one device by part, for a tensor-parallel size and a ZeRO stage."""

from dataclasses import dataclass

from mmbert.model.activation_memory import activation_memory
from mmbert.model.config import EncoderConfig
from mmbert.parallel.zero_buffers import BUCKET_ELEMENTS, MAX_LIVE_PARAMETERS
from mmbert.planner.parameter_count import ParameterCount

# What the driver, NCCL and the allocator's fragments take: an assumption, stated in the plan.
RESERVE_BYTES = 3 << 30
RESERVE_FRACTION = 0.05


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes on one device at the peak of a step, by part.

    `activations` are kept from the forward to the backward pass; `working` is the most that lives
    beside them for a moment: logits, gradients on their way, communication buffers.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    working: int

    @property
    def states(self) -> int:
        """What lives between the steps' passes: weights, gradients and the optimiser."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> int:
        """The peak."""
        return self.states + self.activations + self.working


def usable_bytes(memory_bytes: int) -> int:
    """What a device of `memory_bytes` leaves to the program: less a reserve and a twentieth."""
    return int(memory_bytes * (1 - RESERVE_FRACTION)) - RESERVE_BYTES


def local_parameters(parameters: ParameterCount, tensor: int) -> int:
    """Parameters on one of `tensor` ranks; norms and the head's dense are on every one."""
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
) -> DeviceMemory:
    """Peak bytes on one device.

    `compute_bytes` is 2 in bfloat16 and 4 in float32; `data` the number of data ranks;
    `masked_tokens` the mask slots of a row, `document_slots` the most slots that it may have for
    documents. Master weights, both moments and the accumulated gradients are float32. ZeRO 1
    spreads the masters and moments over the data ranks, 2 the gradients too, 3 the weights as well;
    of those a device then holds the embedding, which the decoder shares, and a layer, and during
    the passes what it may keep of the others.
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
    # ZeRO 2 and 3 reduce a bucket beside the backward pass. ZeRO 1 reduces in place (in float32 by
    # a bucket, when the activations are gone); the others flatten their share before the step.
    bucket = 4 * min(local, BUCKET_ELEMENTS)
    reduction = bucket if zero_stage == 1 else 4 * shard
    bucket = bucket if zero_stage >= 2 else 0
    working = max(passes.peak - passes.kept + bucket + live, reduction - passes.kept, 0)
    return DeviceMemory(
        weights=compute_bytes * (shard if zero_stage == 3 else local) + gathered,
        gradients=4 * (shard if zero_stage >= 2 else local),
        optimizer=12 * shard,
        activations=passes.kept,
        working=working,
    )
