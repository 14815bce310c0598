"""Scalars all-reduced once per training step."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class StepScalars(NamedTuple):
    """Sums over all ranks; the host reads them together with the gradient norm."""

    loss: float
    """Loss summed over the masked tokens of the global batch, in nats."""
    masked_tokens: float
    """Number of masked tokens in the global batch."""
    stop: float
    """Number of ranks that request a stop (see `LoopRequests`)."""
    save: float
    """Number of ranks that request a checkpoint."""
    failure: float
    """Number of ranks that request an abort."""

    @classmethod
    def to_tensor(
        cls, *, loss: Tensor, masked_tokens: float, stop: float, save: float, failure: float
    ) -> Tensor:
        """Pack this rank's values into float64 [5] on the device of `loss` (float64 [])."""
        numbers = to_device((masked_tokens, stop, save, failure), loss.device)
        return torch.cat((loss.reshape(1), numbers))

    @classmethod
    def from_list(cls, values: Sequence[float]) -> "StepScalars":
        """Unpack the values of a `to_tensor` result."""
        return cls(*values)


def to_device(numbers: Sequence[float], device: torch.device) -> Tensor:
    """Copy numbers to the device as float64 [n], asynchronously (from pinned memory)."""
    tensor = torch.tensor(numbers, dtype=torch.float64)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
