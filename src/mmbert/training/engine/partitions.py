"""Layout of ZeRO's flat partitions, and the parameters exempt from weight decay."""

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from mmbert.parallel.parameter_spec import ParameterSpec, spec_of
from mmbert.recipe import ParameterGroup
from mmbert_kernels import TensorSpans

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Names of Adam's averages of gradients and their squares, also in checkpoints."""
MOMENTS_OF_ALL: dict[ParameterGroup, tuple[str, ...]] = {
    "matrices": MOMENTS,
    "embedding": MOMENTS,
    "rest": MOMENTS,
}


@dataclass(frozen=True)
class PartitionLayout:
    """Spans of tensors in this rank's flat partition, with the data to sum over whole tensors."""

    spans: TensorSpans
    """Ranges of the partition that hold parts of tensors."""
    shard_starts: tuple[int, ...]
    """First element of each span in its tensor's flattened shard."""
    numbers: tuple[int, ...]
    """Index of each span's tensor, as in `tensors`."""
    specs: tuple[ParameterSpec, ...]
    """Specs of the tensors."""
    tensor_rank: int
    tensor_size: int
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
        spans: Sequence[tuple[int, int, int, int]],
        *,
        tensor_rank: int,
        tensor_size: int,
        device: torch.device,
    ) -> "PartitionLayout":
        """Build the layout of a partition.

        Args:
            specs: specs of all parameters of the model.
            spans: (start, end, tensor, first element in the flattened shard), sorted.
        """
        decays = [not skips_weight_decay(d.name, len(d.full_shape)) for d in specs]
        owned = [spec.is_split or tensor_rank == 0 for spec in specs]
        sizes = [math.prod(spec.full_shape) for spec in specs]
        numbers = [number for _, _, number, _ in spans]
        return cls(
            spans=TensorSpans(tuple(s[0] for s in spans), tuple(s[1] for s in spans)),
            shard_starts=tuple(s[3] for s in spans),
            numbers=tuple(numbers),
            specs=tuple(specs),
            tensor_rank=tensor_rank,
            tensor_size=tensor_size,
            tensors=torch.tensor(numbers, dtype=torch.int64, device=device),
            decays=torch.tensor([decays[n] for n in numbers]).to(device, torch.float32),
            full_sizes=torch.tensor(sizes, dtype=torch.float64, device=device),
            owned=torch.tensor(owned, dtype=torch.float64, device=device),
        )

    def of_groups(self, groups: Container[ParameterGroup]) -> "PartitionLayout":
        """Return the layout of the tensors of some groups alone, which get new indices."""
        kept = [n for n, spec in enumerate(self.specs) if spec.group in groups]
        places = [n for n, number in enumerate(self.numbers) if number in kept]
        numbers = [kept.index(self.numbers[place]) for place in places]
        starts, ends = self.spans.starts, self.spans.ends
        device = self.tensors.device
        of_tensors = torch.tensor(kept, dtype=torch.int64, device=device)
        of_spans = torch.tensor(places, dtype=torch.int64, device=device)
        return replace(
            self,
            spans=TensorSpans(tuple(starts[n] for n in places), tuple(ends[n] for n in places)),
            shard_starts=tuple(self.shard_starts[n] for n in places),
            numbers=tuple(numbers),
            specs=tuple(self.specs[n] for n in kept),
            tensors=torch.tensor(numbers, dtype=torch.int64, device=device),
            decays=self.decays[of_spans],
            full_sizes=self.full_sizes[of_tensors],
            owned=self.owned[of_tensors],
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
