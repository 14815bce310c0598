"""Adding rows to their places in a larger array, in a fixed order: the way back of a gather.

    out[r] = sum of grad[k] over the k with places[k] = r

Sums are float32, whatever the type of the rows, and the same in every run. In Triton:

1. The places are sorted (stably), unless they ascend already: rows of one place become neighbours.
2. A program takes 32 neighbours and adds up those of one place, by a product with the 32 x 32
   matrix of equal places. What begins and ends among the 32 is a row of the result; what goes on
   before or after them is kept as a part of one.
3. Where a place goes on over several programs' rows, its parts are added in their order. The mask
   token's embedding gets thousands of rows in this way.
"""

# ruff: noqa: N803  (Triton's compile-time arguments are written in capitals)

import torch
from torch import Tensor

from mmbert_kernels.support.checks import computation_dtype
from mmbert_kernels.support.triton_import import blocks, contiguous_rows, launch, tl, triton

RUN = 32
COLUMNS = 128
# Parts of one place that are added at a time.
PARTS = 32


def scatter_rows_reference(
    grad: Tensor, places: Tensor, rows: int, dtype: torch.dtype | None = None
) -> Tensor:
    """[rows, d] of `dtype` (grad's if not given) in plain PyTorch; in order on a CPU alone."""
    compute = computation_dtype(grad.dtype)
    out = torch.zeros(rows, grad.shape[1], dtype=compute, device=grad.device)
    return out.index_add_(0, places, grad.to(compute)).to(dtype or grad.dtype)


def scatter_rows_triton(
    grad: Tensor,
    places: Tensor,
    rows: int,
    dtype: torch.dtype | None = None,
    *,
    ascending: bool = False,
) -> Tensor:
    """[rows, d] of `dtype` (grad's if not given), by the Triton kernels. `ascending` says that the
    places do not fall."""
    grad, places = contiguous_rows(grad), places.contiguous()
    count, width = grad.shape
    out = torch.zeros(rows, width, dtype=dtype or grad.dtype, device=grad.device)
    if not count or not rows:
        return out
    order = None
    if not ascending:
        # half the bits to sort by
        places, order = torch.sort(places.to(torch.int32), stable=True)
    runs = blocks(count, RUN)
    parts = torch.empty(runs, 2, width, dtype=torch.float32, device=grad.device)
    grid = runs, blocks(width, COLUMNS)
    launch(
        _run_sums_kernel,
        grid,
        grad,
        places,
        order,
        out,
        parts,
        count,
        width,
        grad.stride(0),
        HAS_ORDER=order is not None,
        RUN=RUN,
        COLUMNS=COLUMNS,
        num_warps=4,
    )
    launch(
        _add_parts_kernel,
        grid,
        places,
        out,
        parts,
        count,
        width,
        RUN=RUN,
        PARTS=PARTS,
        COLUMNS=COLUMNS,
        num_warps=4,
    )
    return out


@triton.jit
def _run_sums_kernel(  # type: ignore[no-untyped-def]
    grad_pointer,
    places_pointer,
    order_pointer,
    out_pointer,
    parts_pointer,
    count,
    width,
    grad_stride,
    HAS_ORDER: tl.constexpr,
    RUN: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    run = tl.program_id(0).to(tl.int64)
    slot = run * RUN + tl.arange(0, RUN)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    slot_inside, column_inside = slot < count, column < width
    place = tl.load(places_pointer + slot, mask=slot_inside, other=-1)
    before = tl.load(places_pointer + slot - 1, mask=slot_inside & (slot > 0), other=-2)
    source = slot
    if HAS_ORDER:
        source = tl.load(order_pointer + slot, mask=slot_inside, other=0)
    inside = slot_inside[:, None] & column_inside[None, :]
    grad_at = grad_pointer + source[:, None] * grad_stride + column[None, :]
    sums = tl.load(grad_at, mask=inside, other=0.0).to(tl.float32)
    begins = (place != before) | (slot == run * RUN)
    if tl.sum(begins.to(tl.int32)) < RUN:  # else every place has one row
        same = (place[:, None] == place[None, :]).to(tl.float32)
        sums = tl.dot(same, sums, input_precision="ieee")
    # what the neighbouring programs have at their edges
    first, last = run * RUN, tl.minimum(run * RUN + RUN, count) - 1
    first_place = tl.load(places_pointer + first)
    last_place = tl.load(places_pointer + last)
    place_before = tl.load(places_pointer + tl.maximum(first - 1, 0))
    place_after = tl.load(places_pointer + tl.minimum(last + 1, count - 1))
    goes_on_before = (first_place == place_before) & (first > 0)
    goes_on_after = (last_place == place_after) & (last + 1 < count)
    comes_from_before = (place == first_place) & goes_on_before
    goes_after = (place == last_place) & goes_on_after & (comes_from_before == 0)
    crosses = (comes_from_before | goes_after) != 0
    whole = begins & slot_inside & (crosses == 0)
    out_at = out_pointer + place.to(tl.int64)[:, None] * width + column[None, :]
    out = sums.to(out_pointer.dtype.element_ty)
    tl.store(out_at, out, mask=whole[:, None] & column_inside[None, :])
    # part 0 is of the place that comes from before, part 1 of the one that begins here and goes on
    part = begins & slot_inside & crosses
    parts_at = parts_pointer + (run * 2 + goes_after.to(tl.int64))[:, None] * width
    tl.store(parts_at + column[None, :], sums, mask=part[:, None] & column_inside[None, :])


@triton.jit
def _add_parts_kernel(  # type: ignore[no-untyped-def]
    places_pointer,
    out_pointer,
    parts_pointer,
    count,
    width,
    RUN: tl.constexpr,
    PARTS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    run = tl.program_id(0).to(tl.int64)
    first, after = run * RUN, (run + 1) * RUN
    if after < count:
        place = tl.load(places_pointer + after - 1)
        place_before = tl.load(places_pointer + tl.maximum(first - 1, 0))
        begins = (place != place_before) | (first == 0)
        if begins & (place == tl.load(places_pointer + after)):  # it begins here and goes on
            column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
            column_inside = column < width
            at = parts_pointer + column
            total = tl.load(at + (run * 2 + 1) * width, mask=column_inside, other=0.0)
            more = run + 1
            while more >= 0:
                next_run = more + tl.arange(0, PARTS)
                begin = next_run * RUN
                same = place == tl.load(places_pointer + begin, mask=begin < count, other=-1)
                parts_at = at[None, :] + (next_run * 2 * width)[:, None]
                mask = same[:, None] & column_inside[None, :]
                total += tl.sum(tl.load(parts_at, mask=mask, other=0.0), axis=0)
                ended = tl.sum(same.to(tl.int32)) < PARTS
                more = tl.where(ended, -1, more + PARTS)
            out_at = out_pointer + place.to(tl.int64) * width + column
            tl.store(out_at, total.to(out_pointer.dtype.element_ty), mask=column_inside)
