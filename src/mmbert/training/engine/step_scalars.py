"""Scalars that the ranks sum once per training step, by name."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class StepScalars(NamedTuple):
    """Sums over all ranks; the host reads them with the gradient norm, in one copy."""

    loss: float
    """Summed over the masked tokens of the global batch, in nats."""
    masked_tokens: float
    """Masked tokens of the global batch."""
    stop: float
    """Number of ranks that request a stop; the next two likewise (see `LoopRequests`)."""
    save: float
    failure: float

    @classmethod
    def to_tensor(
        cls, *, loss: Tensor, masked_tokens: float, stop: float, save: float, failure: float
    ) -> Tensor:
        """Return this rank's values as float64 [5] on the device of `loss` (float64 []).

        The numbers travel there from pinned memory, so that the host does not wait.
        """
        numbers = to_device((masked_tokens, stop, save, failure), loss.device)
        return torch.cat((loss.reshape(1), numbers))

    @classmethod
    def from_list(cls, values: Sequence[float]) -> "StepScalars":
        """Name the values of a tensor that `to_tensor` made, summed and read."""
        return cls(*values)


def to_device(numbers: Sequence[float], device: torch.device) -> Tensor:
    """Copy numbers to the device as float64 [n], from pinned memory, without waiting for it."""
    tensor = torch.tensor(numbers, dtype=torch.float64)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
