"""StableAdamW on a flat float32 partition that holds (parts of) many tensors.

Per tensor, at step t counted from 1, with gradient g (Wortsman et al. 2023; the debiased
averages are those of optimi and ModernBERT):

    b1 = beta1 (1 - beta1^(t-1)) / (1 - beta1^t)        b2 likewise
    m = b1 m + (1 - b1) g        v = b2 v + (1 - b2) g^2
    RMS = sqrt(mean over the whole tensor of g^2 / max(v, eps^2))        with the updated v
    rate = learning_rate / max(1, RMS)
    p = p (1 - rate / peak_learning_rate * weight_decay)
    p = p - rate * m / (sqrt(v) + eps)

ZeRO and tensor parallelism cut tensors anywhere, so the step is in two passes. Between them the
caller adds up the sums of each tensor over the ranks that hold parts of it:

    sums = stable_adamw_moments(...)        # [segments, 2]: sum of g^2 / max(v, eps^2), elements
    all_reduce(sums)                        # by tensor, in the caller's order of tensors
    stable_adamw_apply(..., sums)
"""

# ruff: noqa: N803  (Triton's compile-time arguments are written in capitals)

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from mmbert_kernels.checks import require
from mmbert_kernels.implementation import implementation
from mmbert_kernels.triton_support import tl, triton

# The Triton kernels give a program this many elements of one tensor; whole blocks begin at
# multiples of ALIGNMENT, so that they are read in wide pieces without a mask.
BLOCK = 2048
ALIGNMENT = 4
# The reference works in pieces that stay in a core's cache.
REFERENCE_PIECE = 1 << 16


@dataclass(frozen=True)
class Segments:
    """Where the tensors lie in a flat partition: segment i is [starts[i], ends[i])."""

    starts: tuple[int, ...]
    ends: tuple[int, ...]

    def __post_init__(self) -> None:
        require(len(self.starts) == len(self.ends), "segments: as many starts as ends are needed")
        previous = 0
        for start, end in zip(self.starts, self.ends, strict=True):
            require(
                previous <= start <= end,
                f"segments must be in order and apart: [{start}, {end}) follows {previous}",
            )
            previous = end

    def __len__(self) -> int:
        return len(self.starts)


def debiased_beta(beta: float, step: int) -> float:
    """The averaging factor of step `step` (from 1) that keeps the average free of bias."""
    require(step >= 1, f"steps are counted from 1; got {step}")
    return beta * (1 - beta ** (step - 1)) / (1 - beta**step)


def stable_adamw_moments(
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    segments: Segments,
    *,
    betas: tuple[float, float],
    step: int,
    eps: float,
) -> Tensor:
    """First pass: update both averages in place and give the sums behind each tensor's RMS.

    Args:
        gradient: float32 [N], the flat partition's gradient.
        exp_avg: float32 [N], m; updated where segments lie.
        exp_avg_sq: float32 [N], v; updated where segments lie.
        segments: where the tensors lie; what lies in none (padding) is left alone.
        betas: the undebiased averaging factors.
        step: number of this step, from 1.
        eps: the optimiser's epsilon.

    Returns:
        float64 [segments, 2] on the partition's device: for each segment the sum of
        g^2 / max(v, eps^2) and the number of elements. Both may be added over ranks.

    Raises:
        ValueError: shapes or types do not fit, or a segment ends after the partition.
    """
    _check(segments, gradient, exp_avg, exp_avg_sq)
    b1, b2 = debiased_beta(betas[0], step), debiased_beta(betas[1], step)
    if implementation("stable_adamw", gradient.device.type) == "triton":
        return _moments_triton(gradient, exp_avg, exp_avg_sq, segments, b1, b2, eps)
    return _moments_reference(gradient, exp_avg, exp_avg_sq, segments, b1, b2, eps)


def stable_adamw_apply(
    parameter: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    segments: Segments,
    sums: Tensor,
    *,
    learning_rate: float,
    peak_learning_rate: float,
    weight_decay: Tensor,
    eps: float,
) -> None:
    """Second pass: update the parameters in place.

    Args:
        parameter: float32 [N], the flat partition's master weights; updated.
        exp_avg: float32 [N], m after the first pass.
        exp_avg_sq: float32 [N], v after the first pass.
        segments: as in the first pass.
        sums: float64 [segments, 2]: what the first pass gave, added over the ranks that hold
            parts of the same tensor.
        learning_rate: this step's.
        peak_learning_rate: what the decay is relative to: weights shrink by `weight_decay` a
            step at this learning rate.
        weight_decay: float32 [segments].
        eps: the optimiser's epsilon.

    Raises:
        ValueError: shapes or types do not fit.
    """
    _check(segments, parameter, exp_avg, exp_avg_sq)
    require(
        sums.shape == (len(segments), 2) and sums.dtype == torch.float64,
        f"sums must be float64 [{len(segments)}, 2]; got {sums.dtype}{list(sums.shape)}",
    )
    require(
        weight_decay.shape == (len(segments),) and weight_decay.dtype == torch.float32,
        f"weight_decay must be float32 [{len(segments)}]; got "
        f"{weight_decay.dtype}{list(weight_decay.shape)}",
    )
    require(peak_learning_rate > 0, f"the peak learning rate is {peak_learning_rate}")
    rates = learning_rate / update_rms(sums).clamp(min=1.0)
    shrink = 1.0 - rates / peak_learning_rate * weight_decay.to(rates)
    if implementation("stable_adamw", parameter.device.type) == "triton":
        _apply_triton(parameter, exp_avg, exp_avg_sq, segments, rates, shrink, eps)
    else:
        _apply_reference(parameter, exp_avg, exp_avg_sq, segments, rates, shrink, eps)


def update_rms(sums: Tensor) -> Tensor:
    """float64 [segments]: each tensor's RMS from its sums; 0 for a tensor without elements."""
    return (sums[:, 0] / sums[:, 1].clamp(min=1.0)).sqrt()


def _moments_reference(
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    segments: Segments,
    b1: float,
    b2: float,
    eps: float,
) -> Tensor:
    sums = []
    for start, end in zip(segments.starts, segments.ends, strict=True):
        total = 0.0
        for first in range(start, end, REFERENCE_PIECE):
            piece = slice(first, min(first + REFERENCE_PIECE, end))
            g = gradient[piece]
            exp_avg[piece].lerp_(g, 1 - b1)
            v = exp_avg_sq[piece].mul_(b2).addcmul_(g, g, value=1 - b2)
            total += (g * g).div_(v.clamp(min=eps * eps)).sum().item()
        sums.append((total, float(end - start)))
    return torch.tensor(sums, dtype=torch.float64, device=gradient.device).reshape(-1, 2)


def _apply_reference(
    parameter: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    segments: Segments,
    rates: Tensor,
    shrink: Tensor,
    eps: float,
) -> None:
    of_segments = zip(segments.starts, segments.ends, rates.tolist(), shrink.tolist(), strict=True)
    for start, end, rate, factor in of_segments:
        for first in range(start, end, REFERENCE_PIECE):
            piece = slice(first, min(first + REFERENCE_PIECE, end))
            update = exp_avg[piece] / exp_avg_sq[piece].sqrt().add_(eps)
            parameter[piece].mul_(factor).sub_(update, alpha=rate)


def _check(segments: Segments, *tensors: Tensor) -> None:
    shape = tensors[0].shape
    for tensor in tensors:
        require(
            tensor.ndim == 1 and tensor.dtype == torch.float32 and tensor.is_contiguous(),
            f"a flat partition must be contiguous float32 [N]; got {tensor.dtype}"
            f"{list(tensor.shape)}",
        )
        require(tensor.shape == shape, "the partition's tensors differ in length")
    require(
        not segments.ends or segments.ends[-1] <= shape[0],
        f"a segment ends at {max(segments.ends, default=0)}, after the partition's "
        f"{shape[0]} elements",
    )


@lru_cache(maxsize=64)
def _block_table(segments: Segments, device: torch.device) -> tuple[Tensor, Tensor]:
    """The blocks that the kernels' programs work on: no block holds parts of two tensors.

    Returns int64 [blocks, 3] of (segment, first element, end) and int64 [segments + 1], the
    first block of every segment.
    """
    rows: list[tuple[int, int, int]] = []
    firsts = [0]
    for index, (start, end) in enumerate(zip(segments.starts, segments.ends, strict=True)):
        aligned = min(-(-start // ALIGNMENT) * ALIGNMENT, end)
        if start < aligned:
            rows.append((index, start, aligned))
        rows += [(index, at, min(at + BLOCK, end)) for at in range(aligned, end, BLOCK)]
        firsts.append(len(rows))
    table = torch.tensor(rows, dtype=torch.int64).reshape(-1, 3)
    return table.to(device), torch.tensor(firsts, dtype=torch.int64).to(device)


@triton.jit
def _moments_of_block(  # type: ignore[no-untyped-def]
    gradient_pointer,
    exp_avg_pointer,
    exp_avg_sq_pointer,
    at,
    inside,
    first_weight,
    second_weight,
    least_square,
):
    """Update both averages at these elements; the sum of their ratios."""
    gradient = tl.load(gradient_pointer + at, mask=inside)
    m = tl.load(exp_avg_pointer + at, mask=inside)
    v = tl.load(exp_avg_sq_pointer + at, mask=inside)
    m += first_weight * (gradient - m)
    v += second_weight * (gradient * gradient - v)
    tl.store(exp_avg_pointer + at, m, mask=inside)
    tl.store(exp_avg_sq_pointer + at, v, mask=inside)
    ratio = gradient * gradient / tl.maximum(v, least_square)
    if inside is not None:
        ratio = tl.where(inside, ratio, 0.0)
    return tl.sum(ratio, axis=0)


@triton.jit
def _moments_kernel(  # type: ignore[no-untyped-def]
    gradient_pointer,
    exp_avg_pointer,
    exp_avg_sq_pointer,
    table_pointer,
    sums_pointer,
    first_weight,
    second_weight,
    least_square,
    BLOCK: tl.constexpr,
    ALIGNMENT: tl.constexpr,
):
    program = tl.program_id(0)
    first = tl.load(table_pointer + program * 3 + 1)
    end = tl.load(table_pointer + program * 3 + 2)
    lane = tl.arange(0, BLOCK)
    if (end - first == BLOCK) & (first % ALIGNMENT == 0):
        total = _moments_of_block(
            gradient_pointer,
            exp_avg_pointer,
            exp_avg_sq_pointer,
            tl.multiple_of(first, ALIGNMENT) + lane,
            None,
            first_weight,
            second_weight,
            least_square,
        )
    else:
        total = _moments_of_block(
            gradient_pointer,
            exp_avg_pointer,
            exp_avg_sq_pointer,
            first + lane,
            first + lane < end,
            first_weight,
            second_weight,
            least_square,
        )
    tl.store(sums_pointer + program, total)


@triton.jit
def _segment_sums_kernel(  # type: ignore[no-untyped-def]
    sums_pointer, firsts_pointer, table_pointer, out_pointer, BLOCK: tl.constexpr
):
    segment = tl.program_id(0)
    first = tl.load(firsts_pointer + segment)
    end = tl.load(firsts_pointer + segment + 1)
    total = tl.zeros([BLOCK], dtype=tl.float64)
    count = tl.zeros([BLOCK], dtype=tl.int64)
    for start in range(first, end, BLOCK):
        at = start + tl.arange(0, BLOCK)
        total += tl.load(sums_pointer + at, mask=at < end, other=0.0).to(tl.float64)
        count += tl.load(table_pointer + at * 3 + 2, mask=at < end, other=0)
        count -= tl.load(table_pointer + at * 3 + 1, mask=at < end, other=0)
    tl.store(out_pointer + segment * 2, tl.sum(total, axis=0))
    tl.store(out_pointer + segment * 2 + 1, tl.sum(count, axis=0).to(tl.float64))


@triton.jit
def _apply_to_block(  # type: ignore[no-untyped-def]
    parameter_pointer, exp_avg_pointer, exp_avg_sq_pointer, at, inside, rate, shrink, eps
):
    parameter = tl.load(parameter_pointer + at, mask=inside)
    m = tl.load(exp_avg_pointer + at, mask=inside)
    v = tl.load(exp_avg_sq_pointer + at, mask=inside)
    parameter = parameter * shrink - rate * (m / (tl.sqrt(v) + eps))
    tl.store(parameter_pointer + at, parameter, mask=inside)


@triton.jit
def _apply_kernel(  # type: ignore[no-untyped-def]
    parameter_pointer,
    exp_avg_pointer,
    exp_avg_sq_pointer,
    table_pointer,
    rates_pointer,
    shrink_pointer,
    eps,
    BLOCK: tl.constexpr,
    ALIGNMENT: tl.constexpr,
):
    program = tl.program_id(0)
    segment = tl.load(table_pointer + program * 3)
    first = tl.load(table_pointer + program * 3 + 1)
    end = tl.load(table_pointer + program * 3 + 2)
    rate = tl.load(rates_pointer + segment)
    shrink = tl.load(shrink_pointer + segment)
    lane = tl.arange(0, BLOCK)
    if (end - first == BLOCK) & (first % ALIGNMENT == 0):
        _apply_to_block(
            parameter_pointer,
            exp_avg_pointer,
            exp_avg_sq_pointer,
            tl.multiple_of(first, ALIGNMENT) + lane,
            None,
            rate,
            shrink,
            eps,
        )
    else:
        _apply_to_block(
            parameter_pointer,
            exp_avg_pointer,
            exp_avg_sq_pointer,
            first + lane,
            first + lane < end,
            rate,
            shrink,
            eps,
        )


def _moments_triton(
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    segments: Segments,
    b1: float,
    b2: float,
    eps: float,
) -> Tensor:
    table, firsts = _block_table(segments, gradient.device)
    count = table.shape[0]
    sums = torch.empty(count, dtype=torch.float32, device=gradient.device)
    out = torch.zeros(len(segments), 2, dtype=torch.float64, device=gradient.device)
    if count:
        _moments_kernel[(count,)](
            gradient,
            exp_avg,
            exp_avg_sq,
            table,
            sums,
            1 - b1,
            1 - b2,
            eps * eps,
            BLOCK=BLOCK,
            ALIGNMENT=ALIGNMENT,
            num_warps=8,
        )
        _segment_sums_kernel[(len(segments),)](sums, firsts, table, out, BLOCK=1024, num_warps=4)
    return out


def _apply_triton(
    parameter: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    segments: Segments,
    rates: Tensor,
    shrink: Tensor,
    eps: float,
) -> None:
    table, _ = _block_table(segments, parameter.device)
    if table.shape[0]:
        _apply_kernel[(table.shape[0],)](
            parameter,
            exp_avg,
            exp_avg_sq,
            table,
            rates.to(torch.float32),
            shrink.to(torch.float32),
            eps,
            BLOCK=BLOCK,
            ALIGNMENT=ALIGNMENT,
            num_warps=8,
        )
