"""Layout of ZeRO's flat partitions, and the parameters exempt from weight decay."""

import math
from collections.abc import Container, Mapping, Sequence
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
    rate_factors: Tensor
    """float64 [spans]: learning rate of the tensor's group over the optimizer's."""
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
        rate_factors: Mapping[str, float],
        tensor_rank: int,
        tensor_size: int,
        device: torch.device,
    ) -> "PartitionLayout":
        """Build the layout of a partition.

        Args:
            specs: specs of all parameters of the model.
            spans: (start, end, tensor, first element in the flattened shard), sorted.
            rate_factors: learning rate of each parameter group over the optimizer's.
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
            rate_factors=torch.tensor(
                [rate_factors[specs[n].group] for n in numbers], dtype=torch.float64, device=device
            ),
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
            rate_factors=self.rate_factors[of_spans],
            full_sizes=self.full_sizes[of_tensors],
            owned=self.owned[of_tensors],
        )


def skips_weight_decay(name: str, dimensions: int) -> bool:
    """Whether a parameter is exempt from weight decay (norms and biases, but not embeddings)."""
    return dimensions <= 1 or name.endswith(".bias")


def parameter_groups(model: nn.Module, rate_factors: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return groups of parameters without and with weight decay, and with equal learning rates.

    Args:
        rate_factors: learning rate of each parameter group over the optimizer's.

    Returns:
        Groups with the keys `decays` and `rate_factor`: two if all factors are equal.
    """
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        spec = spec_of(parameter)
        decays = not skips_weight_decay(spec.name, len(spec.full_shape))
        groups.setdefault((decays, rate_factors[spec.group]), []).append(parameter)
    return [
        {"params": groups[key], "decays": key[0], "rate_factor": key[1]} for key in sorted(groups)
    ]
