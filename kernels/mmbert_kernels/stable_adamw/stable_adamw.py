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

v may be kept for a part of the partition's tensors (those that this optimizer updates, beside
another's) in a shorter tensor, with positions of its own: `exp_avg_sq_spans`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmbert_kernels.stable_adamw.reference import apply_reference, moved, sums_reference
from mmbert_kernels.stable_adamw.triton_kernels import ALIGNMENT, apply_triton, sums_triton
from mmbert_kernels.support.checks import require
from mmbert_kernels.support.dispatch import backend, fused_operation


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

    @property
    def size(self) -> int:
        """Elements up to the end of the last span."""
        return max(self.ends, default=0)

    def compact(self) -> "TensorSpans":
        """Return spans of the same lengths without what lies between them.

        Each keeps its start modulo 4, as `exp_avg_sq_spans` must.
        """
        starts, ends, end = [], [], 0
        for start, stop in zip(self.starts, self.ends, strict=True):
            first = end + (start - end) % ALIGNMENT
            end = first + stop - start
            starts.append(first)
            ends.append(end)
        return TensorSpans(tuple(starts), tuple(ends))


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
    exp_avg_sq_spans: TensorSpans | None = None,
) -> Tensor:
    """First pass: compute the sums for each tensor's RMS. Modifies nothing.

    Args:
        gradient: float32 [N], the flat partition's gradient.
        exp_avg_sq: float32 [N], v before this step; with `exp_avg_sq_spans` of another length.
        spans: positions of the tensors; elements outside (padding) are ignored.
        betas: the averaging factors before debiasing.
        step: number of this step, counted from 1.
        eps: the optimizer's epsilon.
        exp_avg_sq_spans: positions of the same tensors in `exp_avg_sq`, if they differ: of the same
            lengths, and each equal to that of `spans` modulo 4, for wide loads on a GPU.

    Returns:
        float64 [spans, 2] on the partition's device: for each span the sum of g^2 / max(v, eps^2),
        with v updated by this step, and the number of elements. Both can be summed over ranks.

    Raises:
        ValueError: shapes or dtypes do not match, or a span ends after the partition.
    """
    squares = _check(spans, exp_avg_sq_spans, exp_avg_sq, gradient)
    b2 = debiased_beta(betas[1], step)
    if backend("stable_adamw", gradient.device.type) == "triton":
        return sums_triton(gradient, exp_avg_sq, spans.starts, spans.ends, squares.starts, b2, eps)
    if squares is not spans:
        gradient = moved(gradient, spans, torch.zeros_like(exp_avg_sq), squares)
    return sums_reference(gradient, exp_avg_sq, squares, b2, eps)


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
    exp_avg_sq_spans: TensorSpans | None = None,
) -> None:
    """Second pass: update averages and parameters in place.

    Args:
        parameter: float32 [N], the flat partition's master weights; updated.
        gradient: float32 [N], as in the first pass.
        exp_avg: float32 [N], m; updated.
        exp_avg_sq: float32 [N], v; updated. With `exp_avg_sq_spans` of another length.
        spans: as in the first pass; elements outside are left unchanged.
        sums: float64 [spans, 2], the first pass' result, summed over the ranks that hold parts of
            the same tensor.
        betas, step, eps, exp_avg_sq_spans: as in the first pass.
        learning_rate: learning rate of this step.
        peak_learning_rate: learning rate at which weights decay by `weight_decay` per step.
        rate_factors: float64 [spans], positive; multiplies the update, not the weight decay.
        weight_decay: float32 [spans].

    Raises:
        ValueError: shapes or dtypes do not match.
    """
    squares = _check(spans, exp_avg_sq_spans, exp_avg_sq, parameter, gradient, exp_avg)
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
        apply_triton(
            flats,
            spans.starts,
            spans.ends,
            squares.starts,
            rates * rate_factors,
            shrink,
            factors,
            eps,
        )
    else:
        # AdamW multiplies the decay by the whole rate.
        decays = weight_decay.double() / peak_learning_rate / rate_factors
        places = spans, spans, spans, squares
        apply_reference(flats, places, rates * rate_factors, decays, factors, eps)


def update_rms(sums: Tensor) -> Tensor:
    """Return each tensor's RMS from its sums, float64 [spans]; 0 for a tensor without elements."""
    return (sums[:, 0] / sums[:, 1].clamp(min=1.0)).sqrt()


def _check(
    spans: TensorSpans, squares: TensorSpans | None, exp_avg_sq: Tensor, *tensors: Tensor
) -> TensorSpans:
    """Check a partition's tensors, and return the spans in `exp_avg_sq`."""
    shape = tensors[0].shape
    for tensor in (*tensors, exp_avg_sq):
        require(
            tensor.ndim == 1 and tensor.dtype == torch.float32 and tensor.is_contiguous(),
            f"a flat partition must be contiguous float32 [N]; got {tensor.dtype}"
            f"{list(tensor.shape)}",
        )
        require(
            tensor.shape == shape or (squares is not None and tensor is exp_avg_sq),
            "the partition's tensors differ in length",
        )
    _require_inside(spans, shape[0])
    if squares is None:
        return spans
    _require_inside(squares, len(exp_avg_sq))
    places = zip(spans.starts, spans.ends, squares.starts, squares.ends, strict=True)
    require(
        all(
            end - start == last - first and (first - start) % ALIGNMENT == 0
            for start, end, first, last in places
        ),
        "exp_avg_sq_spans differ from the spans in length, or in position modulo 4",
    )
    return squares


def _require_inside(spans: TensorSpans, size: int) -> None:
    require(
        spans.size <= size,
        f"a span ends at {spans.size}, after the partition's {size} elements",
    )
