"""Bytes that each GPU sends per optimiser step, and how long that takes beside the arithmetic."""

from dataclasses import dataclass

from mmbert.hardware import Gpu
from mmbert.parallel.zero_buffers import MAX_LIVE_PARAMETERS
from mmbert.recipe import ModelSettings


@dataclass(frozen=True)
class Communication:
    """Bytes sent by each GPU in one step, and the seconds they take if nothing hides them."""

    gradient_bytes: float
    weight_bytes: float
    tensor_bytes: float
    gradient_seconds: float
    weight_seconds: float
    tensor_seconds: float

    @property
    def seconds(self) -> float:
        """All parts together."""
        return self.gradient_seconds + self.weight_seconds + self.tensor_seconds

    def exposed_seconds(
        self, arithmetic: float, *, rows_per_rank: int, zero_stage: int, overlapped: bool
    ) -> float:
        """What lengthens a step of `arithmetic` seconds, two thirds of them backward passes.

        Gradients travel during the backward passes, under ZeRO 1 during that of the last row
        (not at all unless `overlapped`, which it is in bfloat16); weights after the step, under
        ZeRO 3 during all passes. Tensor parallelism waits for its sums.
        """
        backward = 2 / 3 * arithmetic
        if zero_stage == 1:
            backward = backward / rows_per_rank if overlapped else 0.0
        if zero_stage == 3:
            hidden = min(self.gradient_seconds + self.weight_seconds, arithmetic)
        else:
            hidden = min(self.gradient_seconds, backward)
        return self.seconds - hidden

    @property
    def total_bytes(self) -> float:
        """All parts together."""
        return self.gradient_bytes + self.weight_bytes + self.tensor_bytes


def step_communication(
    model: ModelSettings,
    gpu: Gpu,
    *,
    local_parameters: int,
    rows_per_rank: int,
    row_tokens: int,
    masked_tokens: int,
    tensor: int,
    data: int,
    zero_stage: int,
    compute_bytes: int,
) -> Communication:
    """Ring algorithms: a reduce-scatter or all-gather of n bytes over k ranks sends n·(k−1)/k.

    Gradients travel in float32: all-reduced (both of these) once a step under ZeRO 1 and once a row
    under ZeRO 2, as DeepSpeed does it, scattered once a row under ZeRO 3.
    Weights are gathered in the compute dtype: once a step under ZeRO 1 and 2, under ZeRO 3 twice
    a row, but once where all of them may stay until the row is done.
    Tensor parallelism sums [row_tokens, d] four times a layer (twice forward, twice backward), once
    for the embedding and the masked rows once; sequence parallelism sends the same bytes.
    A tensor group lies within a node; data groups cross nodes when the GPUs do not fit one. A ring
    through many nodes leaves each of them once, so that a node's network cards carry the groups'
    rings together: a data group has its members' share of them.
    """
    ring_data = (data - 1) / data
    gradient_times = {1: 2, 2: 2 * rows_per_rank, 3: rows_per_rank}[zero_stage]
    weight_times = 1
    if zero_stage == 3:
        weight_times = rows_per_rank * (1 if local_parameters <= MAX_LIVE_PARAMETERS else 2)
    gradient_bytes = 4 * local_parameters * ring_data * gradient_times
    weight_bytes = compute_bytes * local_parameters * ring_data * weight_times
    ring_tensor = 2 * (tensor - 1) / tensor
    sums = (4 * model.num_hidden_layers + 1) * row_tokens + masked_tokens
    tensor_bytes = ring_tensor * sums * model.hidden_size * compute_bytes * rows_per_rank
    across_nodes = tensor * data > gpu.gpus_per_node
    cards = max(1.0, gpu.gpus_per_node / tensor)
    data_bandwidth = (
        min(gpu.intra_node_bandwidth, cards * gpu.inter_node_bandwidth)
        if across_nodes
        else gpu.intra_node_bandwidth
    )
    tensor_bandwidth = (
        gpu.intra_node_bandwidth if tensor <= gpu.gpus_per_node else gpu.inter_node_bandwidth
    )
    return Communication(
        gradient_bytes,
        weight_bytes,
        tensor_bytes,
        gradient_bytes / data_bandwidth,
        weight_bytes / data_bandwidth,
        tensor_bytes / tensor_bandwidth,
    )
