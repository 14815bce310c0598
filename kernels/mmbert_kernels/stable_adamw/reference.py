"""StableAdamW in plain PyTorch, by its fused AdamW (formulas: stable_adamw.py)."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from mmbert_kernels.stable_adamw.stable_adamw import TensorSpans

# Elements per piece of the sums; a piece stays in a core's cache.
REFERENCE_PIECE = 1 << 16
# Maximum number of elements per vector of PyTorch's CPU kernels (512 bits).
VECTOR = 16


def sums_reference(
    gradient: Tensor, exp_avg_sq: Tensor, spans: "TensorSpans", b2: float, eps: float
) -> Tensor:
    """Compute the ratios piece by piece across tensors, then each tensor's sum."""
    buffer = gradient.new_empty(2, REFERENCE_PIECE)
    parts: list[Tensor] = []
    owners: list[int] = []
    index, last = 0, spans.ends[-1] if len(spans) else 0
    for first in range(0, last, REFERENCE_PIECE):
        end = min(first + REFERENCE_PIECE, last)
        ratio, v = buffer[:, : end - first]
        torch.mul(gradient[first:end], gradient[first:end], out=ratio)
        torch.lerp(exp_avg_sq[first:end], ratio, 1 - b2, out=v)
        ratio.div_(v.clamp_(min=eps * eps))
        while index < len(spans) and spans.starts[index] < end:
            start, stop = max(spans.starts[index], first), min(spans.ends[index], end)
            parts.append(ratio[start - first : stop - first].sum())
            owners.append(index)
            if spans.ends[index] > end:
                break  # the span continues in the next piece
            index += 1
    out = gradient.new_zeros(len(spans), 2, dtype=torch.float64)
    if parts:
        places = torch.tensor(owners, device=gradient.device)
        out[:, 0].index_add_(0, places, torch.stack(parts).double())
    sizes = [end - start for start, end in zip(spans.starts, spans.ends, strict=True)]
    out[:, 1] = torch.tensor(sizes, dtype=torch.float64)
    return out


def apply_reference(
    flats: tuple[Tensor, Tensor, Tensor, Tensor],
    spans: "tuple[TensorSpans, TensorSpans, TensorSpans, TensorSpans]",
    rates: Tensor,
    decays: Tensor,
    factors: tuple[float, float],
    eps: float,
) -> None:
    """Update by PyTorch's fused AdamW, with one call per distinct pair of rate and decay.

    `spans`: positions in each of `flats`. `factors`: the debiased betas. Step 1e9 disables AdamW's
    own bias correction.
    """
    far = torch.full((), 1e9, device=flats[0].device)
    alike: dict[tuple[float, float], list[int]] = {}
    for index, pair in enumerate(zip(rates.tolist(), decays.tolist(), strict=True)):
        if spans[0].starts[index] < spans[0].ends[index]:
            alike.setdefault(pair, []).append(index)
    for (rate, decay), indices in alike.items():
        cuts = [_whole_vectors([slice(s.starts[i], s.ends[i]) for i in indices]) for s in spans]
        padded = [
            [_padded(flat[rest]) for rest in rests]
            for flat, (_, rests) in zip(flats, cuts, strict=True)
        ]
        parameters, gradients, exp_avgs, exp_avg_sqs = (
            [*(flat[place] for place in whole), *ends]
            for flat, (whole, _), ends in zip(flats, cuts, padded, strict=True)
        )
        torch._fused_adamw_(
            parameters,
            gradients,
            exp_avgs,
            exp_avg_sqs,
            [],
            [far] * len(parameters),
            lr=rate,
            beta1=factors[0],
            beta2=factors[1],
            weight_decay=decay,
            eps=eps,
            amsgrad=False,
            maximize=False,
        )
        for number in (0, 2, 3):  # all but the gradients
            for rest, copy in zip(cuts[number][1], padded[number], strict=True):
                flats[number][rest] = copy[: rest.stop - rest.start]


def _whole_vectors(places: list[slice]) -> tuple[list[slice], list[slice]]:
    """Split each slice into whole vectors and a remainder, without empty slices.

    The fused AdamW rounds the elements after the last whole vector differently. ZeRO may split
    copies of a tensor differently on different tensor ranks, yet they must stay bitwise equal.
    """
    cuts = [place.stop - (place.stop - place.start) % VECTOR for place in places]
    whole = [slice(p.start, cut) for p, cut in zip(places, cuts, strict=True) if cut > p.start]
    return whole, [slice(cut, p.stop) for p, cut in zip(places, cuts, strict=True) if p.stop > cut]


def _padded(rest: Tensor) -> Tensor:
    """Return a copy zero-padded to `VECTOR` elements."""
    return torch.nn.functional.pad(rest, (0, VECTOR - len(rest)))


def moved(source: Tensor, spans: "TensorSpans", target: Tensor, others: "TensorSpans") -> Tensor:
    """Copy the spans of one tensor to the other spans of another, and return that."""
    places = zip(spans.starts, spans.ends, others.starts, others.ends, strict=True)
    for start, end, first, last in places:
        target[first:last] = source[start:end]
    return target
