"""Triton kernels of StableAdamW for all tensors at once (formulas: stable_adamw.py).

Each program processes one block of one tensor. Whole blocks that start at a multiple of ALIGNMENT
are read in wide loads without a mask; the elements before and after form separate blocks.
"""

# ruff: noqa: N803  (Triton's compile-time arguments are in capitals)

from functools import lru_cache

import torch
from torch import Tensor

from mmbert_kernels.support.triton_import import launch, tl, triton

BLOCK = 2048
ALIGNMENT = 4


@lru_cache(maxsize=64)
def _block_table(
    starts: tuple[int, ...],
    ends: tuple[int, ...],
    exp_avg_sq_starts: tuple[int, ...],
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Return the block table of the kernels, whose blocks do not cross tensors, and its index.

    Table: int64 [blocks, 4] of (span, first element, end, offset of v's elements from the others').
    Index: int64 [spans + 1], the first block of every span.
    """
    rows: list[tuple[int, int, int, int]] = []
    firsts = [0]
    places = zip(starts, ends, exp_avg_sq_starts, strict=True)
    for index, (start, end, square) in enumerate(places):
        aligned, shift = min(-(-start // ALIGNMENT) * ALIGNMENT, end), square - start
        if start < aligned:
            rows.append((index, start, aligned, shift))
        rows += [(index, at, min(at + BLOCK, end), shift) for at in range(aligned, end, BLOCK)]
        firsts.append(len(rows))
    table = torch.tensor(rows, dtype=torch.int64).reshape(-1, 4)
    return table.to(device), torch.tensor(firsts, dtype=torch.int64).to(device)


@triton.jit
def _second_average(v, gradient, second_weight):  # type: ignore[no-untyped-def]
    """Return the updated v, bitwise the same in both passes."""
    return v + second_weight * (gradient * gradient - v)


@triton.jit
def _sum_of_block(  # type: ignore[no-untyped-def]
    gradient_pointer, exp_avg_sq_pointer, at, square_at, inside, second_weight, least_square
):
    gradient = tl.load(gradient_pointer + at, mask=inside)
    v = tl.load(exp_avg_sq_pointer + square_at, mask=inside)
    v = _second_average(v, gradient, second_weight)
    ratio = gradient * gradient / tl.maximum(v, least_square)
    if inside is not None:
        ratio = tl.where(inside, ratio, 0.0)
    return tl.sum(ratio, axis=0)


@triton.jit
def _sums_kernel(  # type: ignore[no-untyped-def]
    gradient_pointer,
    exp_avg_sq_pointer,
    table_pointer,
    sums_pointer,
    second_weight,
    least_square,
    BLOCK: tl.constexpr,
    ALIGNMENT: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    first = tl.load(table_pointer + program * 4 + 1)
    end = tl.load(table_pointer + program * 4 + 2)
    square = first + tl.load(table_pointer + program * 4 + 3)
    lane = tl.arange(0, BLOCK)
    if (end - first == BLOCK) & (first % ALIGNMENT == 0):
        total = _sum_of_block(
            gradient_pointer,
            exp_avg_sq_pointer,
            tl.multiple_of(first, ALIGNMENT) + lane,
            tl.multiple_of(square, ALIGNMENT) + lane,
            None,
            second_weight,
            least_square,
        )
    else:
        total = _sum_of_block(
            gradient_pointer,
            exp_avg_sq_pointer,
            first + lane,
            square + lane,
            first + lane < end,
            second_weight,
            least_square,
        )
    tl.store(sums_pointer + program, total)


@triton.jit
def _span_sums_kernel(  # type: ignore[no-untyped-def]
    sums_pointer, firsts_pointer, table_pointer, out_pointer, BLOCK: tl.constexpr
):
    span = tl.program_id(0)
    first = tl.load(firsts_pointer + span)
    end = tl.load(firsts_pointer + span + 1)
    total = tl.zeros([BLOCK], dtype=tl.float64)
    count = tl.zeros([BLOCK], dtype=tl.int64)
    for start in range(first, end, BLOCK):
        at = start + tl.arange(0, BLOCK)
        total += tl.load(sums_pointer + at, mask=at < end, other=0.0).to(tl.float64)
        count += tl.load(table_pointer + at * 4 + 2, mask=at < end, other=0)
        count -= tl.load(table_pointer + at * 4 + 1, mask=at < end, other=0)
    tl.store(out_pointer + span * 2, tl.sum(total, axis=0))
    tl.store(out_pointer + span * 2 + 1, tl.sum(count, axis=0).to(tl.float64))


@triton.jit
def _apply_to_block(  # type: ignore[no-untyped-def]
    parameter_pointer,
    gradient_pointer,
    exp_avg_pointer,
    exp_avg_sq_pointer,
    at,
    square_at,
    inside,
    rate,
    shrink,
    first_weight,
    second_weight,
    eps,
):
    parameter = tl.load(parameter_pointer + at, mask=inside)
    gradient = tl.load(gradient_pointer + at, mask=inside)
    m = tl.load(exp_avg_pointer + at, mask=inside)
    v = tl.load(exp_avg_sq_pointer + square_at, mask=inside)
    v = _second_average(v, gradient, second_weight)
    m += first_weight * (gradient - m)
    parameter = parameter * shrink - rate * (m / (tl.sqrt(v) + eps))
    tl.store(exp_avg_pointer + at, m, mask=inside)
    tl.store(exp_avg_sq_pointer + square_at, v, mask=inside)
    tl.store(parameter_pointer + at, parameter, mask=inside)


@triton.jit
def _apply_kernel(  # type: ignore[no-untyped-def]
    parameter_pointer,
    gradient_pointer,
    exp_avg_pointer,
    exp_avg_sq_pointer,
    table_pointer,
    rates_pointer,
    shrink_pointer,
    first_weight,
    second_weight,
    eps,
    BLOCK: tl.constexpr,
    ALIGNMENT: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    span = tl.load(table_pointer + program * 4)
    first = tl.load(table_pointer + program * 4 + 1)
    end = tl.load(table_pointer + program * 4 + 2)
    square = first + tl.load(table_pointer + program * 4 + 3)
    rate = tl.load(rates_pointer + span)
    shrink = tl.load(shrink_pointer + span)
    lane = tl.arange(0, BLOCK)
    if (end - first == BLOCK) & (first % ALIGNMENT == 0):
        _apply_to_block(
            parameter_pointer,
            gradient_pointer,
            exp_avg_pointer,
            exp_avg_sq_pointer,
            tl.multiple_of(first, ALIGNMENT) + lane,
            tl.multiple_of(square, ALIGNMENT) + lane,
            None,
            rate,
            shrink,
            first_weight,
            second_weight,
            eps,
        )
    else:
        _apply_to_block(
            parameter_pointer,
            gradient_pointer,
            exp_avg_pointer,
            exp_avg_sq_pointer,
            first + lane,
            square + lane,
            first + lane < end,
            rate,
            shrink,
            first_weight,
            second_weight,
            eps,
        )


def sums_triton(
    gradient: Tensor,
    exp_avg_sq: Tensor,
    starts: tuple[int, ...],
    ends: tuple[int, ...],
    exp_avg_sq_starts: tuple[int, ...],
    b2: float,
    eps: float,
) -> Tensor:
    """Compute `stable_adamw_sums`, float64 [spans, 2]."""
    table, firsts = _block_table(starts, ends, exp_avg_sq_starts, gradient.device)
    count = table.shape[0]
    sums = torch.empty(count, dtype=torch.float32, device=gradient.device)
    out = torch.zeros(len(starts), 2, dtype=torch.float64, device=gradient.device)
    if count:
        launch(
            _sums_kernel,
            (count,),
            gradient,
            exp_avg_sq,
            table,
            sums,
            1 - b2,
            eps * eps,
            BLOCK=BLOCK,
            ALIGNMENT=ALIGNMENT,
            num_warps=8,
        )
        launch(_span_sums_kernel, (len(starts),), sums, firsts, table, out, BLOCK=1024, num_warps=4)
    return out


def apply_triton(
    flats: tuple[Tensor, Tensor, Tensor, Tensor],
    starts: tuple[int, ...],
    ends: tuple[int, ...],
    exp_avg_sq_starts: tuple[int, ...],
    rates: Tensor,
    shrink: Tensor,
    factors: tuple[float, float],
    eps: float,
) -> None:
    """Update parameter, exp_avg and exp_avg_sq in place.

    `flats`: parameter, gradient, exp_avg, exp_avg_sq. `rates`, `shrink`: float64 [spans], learning
    rates and weight decay factors. `factors`: the debiased betas.
    """
    table, _ = _block_table(starts, ends, exp_avg_sq_starts, flats[0].device)
    if table.shape[0]:
        launch(
            _apply_kernel,
            (table.shape[0],),
            *flats,
            table,
            rates.to(torch.float32),
            shrink.to(torch.float32),
            1 - factors[0],
            1 - factors[1],
            eps,
            BLOCK=BLOCK,
            ALIGNMENT=ALIGNMENT,
            num_warps=8,
        )
