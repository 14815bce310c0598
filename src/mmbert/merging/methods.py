"""Ways to make one tensor out of several models' tensors: TIES, linear, exponentially weighted.

TIES: Yadav et al. 2023, "Resolving Interference When Merging Models", trimmed tensor by tensor as
the merging tools in use do, so that no more than one parameter of each model is in memory.
"""

import math
from collections.abc import Sequence

import torch

# Elements mixed at a time: their float64 copies stay in a processor's cache.
_CHUNK = 1 << 17


def exponential_weights(count: int, decay: float) -> list[float]:
    """Weights of `count` checkpoints, oldest first: each older one weighs `decay` times the next.

    They sum to 1. ValueError unless 0 < decay ≤ 1.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"decay {decay} is not between 0 and 1")
    raw = [decay ** (count - 1 - index) for index in range(count)]
    return [weight / math.fsum(raw) for weight in raw]


def weighted_mean(tensors: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """Σ wᵢ·xᵢ / Σ wᵢ of float32 tensors, summed in float64; float32."""
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
    """`base` plus the TIES merge of the tensors' differences from it; float32.

    Trim: of each difference the share `density` with the largest magnitude stays (at least one
    element; equal magnitudes at the border all stay). Elect: per element, the sign of the weighted
    sum of what stayed. Merge: the weighted mean of the differences that have that sign; where none
    stayed, or what stayed cancels, the base's value.
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
            # The border was found in float32 differences; the comparison must round as it did.
            kept = (tensor[part] - reference[part]).abs() >= threshold
            trimmed.append((tensor[part].double() - start_values) * kept)
        stacked = torch.stack(trimmed)
        scaled = stacked * scale
        elected = scaled.sum(0)
        # Of the elected sign; what was trimmed, and all where nothing is elected, is 0.
        agrees = torch.sign(stacked) * torch.sign(elected) > 0
        divisor = (agrees * scale).sum(0)
        mean = (scaled * agrees).sum(0) / divisor.clamp(min=1e-300)
        merged[part] = (start_values + mean).float()
    return merged.view(base.shape)


def _threshold(difference: torch.Tensor, density: float) -> float:
    """The smallest magnitude that stays; `difference` is used up. Zeros never count as staying."""
    kept = max(1, int(density * difference.numel()))
    magnitude = difference.abs_().numpy()
    place = magnitude.size - kept
    magnitude.partition(place)  # in place, and several times faster than torch.kthvalue
    return float(magnitude[place])
