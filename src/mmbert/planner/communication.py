"""Bytes that each GPU sends per optimiser step, and how long that takes beside the arithmetic."""

from dataclasses import dataclass

from mmbert.planner.hardware import Gpu
from mmbert.recipe import ModelSettings


@dataclass(frozen=True)
class Communication:
    """Bytes sent by each GPU in one step, and the seconds they take if nothing hides them."""

    gradient_bytes: float
    weight_bytes: float
    tensor_bytes: float
    seconds: float

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

    Gradients travel in float32: all-reduced (both of these) once a step under ZeRO 1, scattered
    once a row under ZeRO 2 and 3.
    Weights are gathered in the compute dtype: once a step under ZeRO 1 and 2, under ZeRO 3 twice
    a row. Tensor parallelism sums [row_tokens, d] four times a layer (twice forward, twice
    backward), once for the embedding and the masked rows once; sequence parallelism sends the
    same bytes. A tensor group lies within a node; data groups cross nodes when the GPUs do not
    fit one.
    """
    ring_data = (data - 1) / data
    gradient_times = rows_per_rank if zero_stage >= 2 else 2
    weight_times = 2 * rows_per_rank if zero_stage == 3 else 1
    gradient_bytes = 4 * local_parameters * ring_data * gradient_times
    weight_bytes = compute_bytes * local_parameters * ring_data * weight_times
    ring_tensor = 2 * (tensor - 1) / tensor
    sums = (4 * model.num_hidden_layers + 1) * row_tokens + masked_tokens
    tensor_bytes = ring_tensor * sums * model.hidden_size * compute_bytes * rows_per_rank
    across_nodes = tensor * data > gpu.gpus_per_node
    data_speed = gpu.network_bytes if across_nodes else gpu.link_bytes
    tensor_speed = gpu.link_bytes if tensor <= gpu.gpus_per_node else gpu.network_bytes
    seconds = (gradient_bytes + weight_bytes) / data_speed + tensor_bytes / tensor_speed
    return Communication(gradient_bytes, weight_bytes, tensor_bytes, seconds)
