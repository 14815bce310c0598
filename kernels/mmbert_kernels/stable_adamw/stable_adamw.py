"""StableAdamW on a flat float32 partition that contains (parts of) many tensors.

Per tensor, at step t counted from 1, with gradient g (Wortsman et al. 2023; the debiased
averages are those of optimi and ModernBERT):

    b1 = beta1 (1 - beta1^(t-1)) / (1 - beta1^t)        b2 likewise
    m = b1 m + (1 - b1) g        v = b2 v + (1 - b2) g^2
    RMS = sqrt(mean over the whole tensor of g^2 / max(v, eps^2))        with the updated v
    rate = learning_rate / max(1, RMS)
    p = p (1 - rate / peak_learning_rate * weight_decay)
    p = p - rate_factor * rate * m / (sqrt(v) + eps)

ZeRO and tensor parallelism may split tensors anywhere, so the step takes two passes. The first
modifies nothing; the caller then adds the sums of each tensor over the ranks that hold parts of it:

    sums = stable_adamw_sums(...)           # [spans, 2]: sum of g^2 / max(v, eps^2), elements
    all_reduce(sums)                        # by tensor, in the caller's order of tensors
    stable_adamw_apply(..., sums)           # m, v and p
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmbert_kernels.stable_adamw.triton_kernels import apply_triton, sums_triton
from mmbert_kernels.support.checks import require
from mmbert_kernels.support.dispatch import backend, fused_operation

# Elements per piece of the reference's sums; a piece stays in a core's cache.
REFERENCE_PIECE = 1 << 16
# Maximum number of elements per vector of PyTorch's CPU kernels (512 bits).
VECTOR = 16


@dataclass(frozen=True)
class TensorSpans:
    """Positions of the tensors in a flat partition: span i is [starts[i], ends[i])."""

    starts: tuple[int, ...]
    ends: tuple[int, ...]

    def __post_init__(self) -> None:
        require(len(self.starts) == len(self.ends), "spans: starts and ends differ in number")
        previous = 0
        for start, end in zip(self.starts, self.ends, strict=True):
            require(
                previous <= start <= end,
                f"spans must be in order and disjoint: [{start}, {end}) follows {previous}",
            )
            previous = end

    def __len__(self) -> int:
        return len(self.starts)


def debiased_beta(beta: float, step: int) -> float:
    """Return the averaging factor that gives an unbiased average at `step` (counted from 1)."""
    require(step >= 1, f"steps are counted from 1; got {step}")
    return beta * (1 - beta ** (step - 1)) / (1 - beta**step)


@fused_operation("stable_adamw")
def stable_adamw_sums(
    gradient: Tensor,
    exp_avg_sq: Tensor,
    spans: TensorSpans,
    *,
    betas: tuple[float, float],
    step: int,
    eps: float,
) -> Tensor:
    """First pass: compute the sums for each tensor's RMS. Modifies nothing.

    Args:
        gradient: float32 [N], the flat partition's gradient.
        exp_avg_sq: float32 [N], v before this step.
        spans: positions of the tensors; elements outside (padding) are ignored.
        betas: the averaging factors before debiasing.
        step: number of this step, counted from 1.
        eps: the optimizer's epsilon.

    Returns:
        float64 [spans, 2] on the partition's device: for each span the sum of g^2 / max(v, eps^2),
        with v updated by this step, and the number of elements. Both can be summed over ranks.

    Raises:
        ValueError: shapes or dtypes do not match, or a span ends after the partition.
    """
    _check(spans, gradient, exp_avg_sq)
    b2 = debiased_beta(betas[1], step)
    if backend("stable_adamw", gradient.device.type) == "triton":
        return sums_triton(gradient, exp_avg_sq, spans.starts, spans.ends, b2, eps)
    return _sums_reference(gradient, exp_avg_sq, spans, b2, eps)


@fused_operation("stable_adamw")
def stable_adamw_apply(
    parameter: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    spans: TensorSpans,
    sums: Tensor,
    *,
    betas: tuple[float, float],
    step: int,
    learning_rate: float,
    peak_learning_rate: float,
    rate_factors: Tensor,
    weight_decay: Tensor,
    eps: float,
) -> None:
    """Second pass: update averages and parameters in place.

    Args:
        parameter: float32 [N], the flat partition's master weights; updated.
        gradient: float32 [N], as in the first pass.
        exp_avg: float32 [N], m; updated.
        exp_avg_sq: float32 [N], v; updated.
        spans: as in the first pass; elements outside are left unchanged.
        sums: float64 [spans, 2], the first pass' result, summed over the ranks that hold parts of
            the same tensor.
        betas, step, eps: as in the first pass.
        learning_rate: learning rate of this step.
        peak_learning_rate: learning rate at which weights decay by `weight_decay` per step.
        rate_factors: float64 [spans], positive; multiplies the update, not the weight decay.
        weight_decay: float32 [spans].

    Raises:
        ValueError: shapes or dtypes do not match.
    """
    _check(spans, parameter, gradient, exp_avg, exp_avg_sq)
    require(
        sums.shape == (len(spans), 2) and sums.dtype == torch.float64,
        f"sums must be float64 [{len(spans)}, 2]; got {sums.dtype}{list(sums.shape)}",
    )
    require(
        weight_decay.shape == (len(spans),) and weight_decay.dtype == torch.float32,
        f"weight_decay must be float32 [{len(spans)}]; got "
        f"{weight_decay.dtype}{list(weight_decay.shape)}",
    )
    require(
        rate_factors.shape == (len(spans),) and rate_factors.dtype == torch.float64,
        f"rate_factors must be float64 [{len(spans)}]; got "
        f"{rate_factors.dtype}{list(rate_factors.shape)}",
    )
    require(
        peak_learning_rate > 0, f"peak_learning_rate must be positive; got {peak_learning_rate}"
    )
    factors = debiased_beta(betas[0], step), debiased_beta(betas[1], step)
    rates = learning_rate / update_rms(sums).clamp(min=1.0)
    flats = (parameter, gradient, exp_avg, exp_avg_sq)
    if backend("stable_adamw", parameter.device.type) == "triton":
        shrink = 1.0 - rates / peak_learning_rate * weight_decay.to(rates)
        apply_triton(flats, spans.starts, spans.ends, rates * rate_factors, shrink, factors, eps)
    else:
        # AdamW multiplies the decay by the whole rate.
        decays = weight_decay.double() / peak_learning_rate / rate_factors
        _apply_reference(flats, spans, rates * rate_factors, decays, factors, eps)


def update_rms(sums: Tensor) -> Tensor:
    """Return each tensor's RMS from its sums, float64 [spans]; 0 for a tensor without elements."""
    return (sums[:, 0] / sums[:, 1].clamp(min=1.0)).sqrt()


def _sums_reference(
    gradient: Tensor, exp_avg_sq: Tensor, spans: TensorSpans, b2: float, eps: float
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


def _apply_reference(
    flats: tuple[Tensor, Tensor, Tensor, Tensor],
    spans: TensorSpans,
    rates: Tensor,
    decays: Tensor,
    factors: tuple[float, float],
    eps: float,
) -> None:
    """Update by PyTorch's fused AdamW, with one call per distinct pair of rate and decay.

    `factors`: the debiased betas. Step 1e9 disables AdamW's own bias correction.
    """
    far = torch.full((), 1e9, device=flats[0].device)
    alike: dict[tuple[float, float], list[slice]] = {}
    per_span = zip(spans.starts, spans.ends, rates.tolist(), decays.tolist(), strict=True)
    for start, end, rate, decay in per_span:
        if start < end:
            alike.setdefault((rate, decay), []).append(slice(start, end))
    for (rate, decay), places in alike.items():
        whole, rests = _whole_vectors(places)
        padded = [[_padded(flat[rest]) for rest in rests] for flat in flats]
        parameters, gradients, exp_avgs, exp_avg_sqs = (
            [*(flat[place] for place in whole), *ends]
            for flat, ends in zip(flats, padded, strict=True)
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
            for rest, copy in zip(rests, padded[number], strict=True):
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


def _check(spans: TensorSpans, *tensors: Tensor) -> None:
    shape = tensors[0].shape
    for tensor in tensors:
        require(
            tensor.ndim == 1 and tensor.dtype == torch.float32 and tensor.is_contiguous(),
            f"a flat partition must be contiguous float32 [N]; got {tensor.dtype}"
            f"{list(tensor.shape)}",
        )
        require(tensor.shape == shape, "the partition's tensors differ in length")
    require(
        not spans.ends or spans.ends[-1] <= shape[0],
        f"a span ends at {max(spans.ends, default=0)}, after the partition's {shape[0]} elements",
    )
