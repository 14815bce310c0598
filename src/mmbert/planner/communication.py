"""Communication volume of each GPU per optimizer step, and its exposed time."""

from dataclasses import dataclass

from mmbert.hardware import Gpu, group_bandwidths
from mmbert.parallel.zero_buffers import MAX_LIVE_PARAMETERS
from mmbert.recipe import ModelSettings


@dataclass(frozen=True)
class Communication:
    """Bytes sent by each GPU in one step, and their time in seconds without overlap."""

    gradient_bytes: float
    weight_bytes: float
    tensor_bytes: float
    gradient_seconds: float
    weight_seconds: float
    tensor_seconds: float

    @property
    def seconds(self) -> float:
        """Time of all parts, in seconds."""
        return self.gradient_seconds + self.weight_seconds + self.tensor_seconds

    def exposed_seconds(
        self, compute_seconds: float, *, rows_per_rank: int, zero_stage: int, overlapped: bool
    ) -> float:
        """Return the communication time that does not overlap with `compute_seconds` of a step.

        Backward passes take two thirds of the compute. Gradient communication overlaps with them;
        under ZeRO 1 only with the last row's, and only if `overlapped` (bfloat16). Weights are
        sent after the step without overlap. Under ZeRO 3, both overlap with all passes. Tensor
        parallelism never overlaps.
        """
        backward = 2 / 3 * compute_seconds
        if zero_stage == 1:
            backward = backward / rows_per_rank if overlapped else 0.0
        if zero_stage == 3:
            hidden = min(self.gradient_seconds + self.weight_seconds, compute_seconds)
        else:
            hidden = min(self.gradient_seconds, backward)
        return self.seconds - hidden

    @property
    def total_bytes(self) -> float:
        """Bytes of all parts."""
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
    """Estimate the communication of one step, assuming ring collectives.

    A ring reduce-scatter or all-gather of n bytes over k ranks sends n·(k−1)/k.

    - Gradients (float32): all-reduce (reduce-scatter and all-gather) once per step under ZeRO 1 and
      once per row under ZeRO 2, as in DeepSpeed; reduce-scatter once per row under ZeRO 3.
    - Weights (compute dtype): all-gather once per step under ZeRO 1 and 2; under ZeRO 3 twice per
      row, or once if all weights may stay resident for the row.
    - Tensor parallelism: all-reduce of [row_tokens, d] four times per layer (twice forward, twice
      backward) and once for the embedding; all-reduce of [masked_tokens, d] once. Sequence
      parallelism sends the same bytes.
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
    data_bandwidth, tensor_bandwidth = group_bandwidths(gpu, tensor=tensor, data=data)
    return Communication(
        gradient_bytes,
        weight_bytes,
        tensor_bytes,
        gradient_bytes / data_bandwidth,
        weight_bytes / data_bandwidth,
        tensor_bytes / tensor_bandwidth,
    )
