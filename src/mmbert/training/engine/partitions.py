"""Layout of ZeRO's flat partitions, and the parameters exempt from weight decay."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmbert.parallel.parameter_spec import ParameterSpec, spec_of
from mmbert_kernels import TensorSpans


@dataclass(frozen=True)
class PartitionLayout:
    """Spans of tensors in this rank's flat partition, with the data to sum over whole tensors."""

    spans: TensorSpans
    """Ranges of the partition that hold parts of tensors."""
    tensors: Tensor
    """int64 [spans]: index of each span's tensor. Indices are the same on every rank."""
    decays: Tensor
    """float32 [spans], 1 or 0: whether weight decay applies."""
    full_sizes: Tensor
    """float64 [tensors]: elements of each whole tensor."""
    owned: Tensor
    """float64 [tensors], 1 or 0: whether this rank's elements enter the sum. Tensors replicated
    over the tensor-parallel ranks are owned by the first of them."""

    @classmethod
    def build(
        cls,
        specs: Sequence[ParameterSpec],
        spans: Sequence[tuple[int, int, int]],
        *,
        tensor_rank: int,
        device: torch.device,
    ) -> "PartitionLayout":
        """Build the layout of a partition.

        Args:
            specs: specs of all parameters of the model.
            spans: (start, end, tensor) in the partition, sorted.
        """
        decays = [not skips_weight_decay(d.name, len(d.full_shape)) for d in specs]
        owned = [spec.is_split or tensor_rank == 0 for spec in specs]
        sizes = [math.prod(spec.full_shape) for spec in specs]
        numbers = [number for _, _, number in spans]
        return cls(
            spans=TensorSpans(tuple(s[0] for s in spans), tuple(s[1] for s in spans)),
            tensors=torch.tensor(numbers, dtype=torch.int64, device=device),
            decays=torch.tensor([decays[n] for n in numbers]).to(device, torch.float32),
            full_sizes=torch.tensor(sizes, dtype=torch.float64, device=device),
            owned=torch.tensor(owned, dtype=torch.float64, device=device),
        )


def skips_weight_decay(name: str, dimensions: int) -> bool:
    """Whether a parameter is exempt from weight decay (norms and biases, but not embeddings)."""
    return dimensions <= 1 or name.endswith(".bias")


def weight_decay_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Return the parameter groups without and with weight decay, marked by the key `decays`."""
    named = [(spec_of(parameter), parameter) for parameter in model.parameters()]
    exempt = [skips_weight_decay(d.name, len(d.full_shape)) for d, _ in named]
    return [
        {
            "params": [p for (_, p), skips in zip(named, exempt, strict=True) if skips != decays],
            "decays": decays,
        }
        for decays in (False, True)
    ]
