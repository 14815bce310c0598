"""Merge methods on tensors: TIES, weighted mean, exponential weights.

TIES: Yadav et al. 2023, "Resolving Interference When Merging Models". Trimming is per tensor, as in
common merging tools, so that only one parameter of each model is in memory.
"""

import math
from collections.abc import Sequence

import torch

# Elements processed at a time: their float64 copies fit in a CPU cache.
_CHUNK = 1 << 17


def exponential_weights(count: int, decay: float) -> list[float]:
    """Return normalized weights of `count` checkpoints, oldest first, each `decay` times the next.

    Raises ValueError unless 0 < decay ≤ 1.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"decay {decay} is not between 0 and 1")
    raw = [decay ** (count - 1 - index) for index in range(count)]
    return [weight / math.fsum(raw) for weight in raw]


def weighted_mean(tensors: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """Return Σ wᵢ·xᵢ / Σ wᵢ of float32 tensors as float32, accumulated in float64."""
    total = math.fsum(weights)
    flat = [tensor.reshape(-1) for tensor in tensors]
    mean = torch.empty_like(flat[0])
    for start in range(0, mean.numel(), _CHUNK):
        part = slice(start, start + _CHUNK)
        chunk = sum(x[part].double() * w for x, w in zip(flat, weights, strict=True))
        assert isinstance(chunk, torch.Tensor)
        mean[part] = (chunk / total).float()
    return mean.view(tensors[0].shape)


def ties(
    base: torch.Tensor,
    tensors: Sequence[torch.Tensor],
    weights: Sequence[float],
    density: float,
) -> torch.Tensor:
    """Return `base` plus the TIES merge of the differences of `tensors` from it; float32.

    1. Trim: keep the fraction `density` of each difference with the largest magnitude (at least
       one element; ties at the threshold are kept).
    2. Elect: per element, take the sign of the weighted sum of the kept values.
    3. Merge: take the weighted mean of the kept values with that sign. Elements without kept
       values, or with values that cancel, have the value of `base`.
    """
    reference = base.reshape(-1)
    flat = [tensor.reshape(-1) for tensor in tensors]
    thresholds = [_threshold(tensor - reference, density) for tensor in flat]
    scale = torch.tensor(list(weights), dtype=torch.float64).view(-1, 1)
    merged = torch.empty_like(reference)
    for start in range(0, merged.numel(), _CHUNK):
        part = slice(start, start + _CHUNK)
        start_values = reference[part].double()
        trimmed = []
        for tensor, threshold in zip(flat, thresholds, strict=True):
            # Thresholds are float32 differences, so the comparison must round in the same way.
            kept = (tensor[part] - reference[part]).abs() >= threshold
            trimmed.append((tensor[part].double() - start_values) * kept)
        stacked = torch.stack(trimmed)
        scaled = stacked * scale
        elected = scaled.sum(0)
        # False for trimmed values, and for all if no sign is elected.
        agrees = torch.sign(stacked) * torch.sign(elected) > 0
        divisor = (agrees * scale).sum(0)
        mean = (scaled * agrees).sum(0) / divisor.clamp(min=1e-300)
        merged[part] = (start_values + mean).float()
    return merged.view(base.shape)


def _threshold(difference: torch.Tensor, density: float) -> float:
    """Return the smallest magnitude to keep; kept zeros have no effect. Overwrites `difference`."""
    kept = max(1, int(density * difference.numel()))
    magnitude = difference.abs_().numpy()
    place = magnitude.size - kept
    magnitude.partition(place)  # in place, several times faster than torch.kthvalue
    return float(magnitude[place])
