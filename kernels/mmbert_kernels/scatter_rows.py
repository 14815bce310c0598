"""Adding rows to their places in a larger array, in a fixed order: the way back of a gather.

    out[r] = sum of grad[k] over the k with places[k] = r

Sums are float32, whatever the type of the rows, and the same in every run. In Triton:

1. The places are sorted (stably), which brings the rows of one place together.
2. Each block of 32 neighbours in that order adds up the rows that share a place, by a product
   with the 32 x 32 matrix of equal places, and keeps the sum at the first of them.
3. Each row of the result adds the few sums that belong to it. A place that thousands of rows
   share (the mask token's embedding) costs a 32nd of them.
"""

# ruff: noqa: N803  (Triton's compile-time arguments are written in capitals)

import torch
from torch import Tensor

from mmbert_kernels.checks import computation_dtype
from mmbert_kernels.triton_support import blocks, contiguous_rows, tl, triton

RUN = 32
COLUMNS = 128
HEADS = 8
# Rows of the result that a program makes one after another: most places get nothing, and a program
# for each (a vocabulary has 256,000) would take longer to start than to write its zeros.
PLACES = 8


def scatter_rows_reference(
    grad: Tensor, places: Tensor, rows: int, dtype: torch.dtype | None = None
) -> Tensor:
    """[rows, d] of `dtype` (grad's if not given) in plain PyTorch; in order on a CPU alone."""
    compute = computation_dtype(grad.dtype)
    out = torch.zeros(rows, grad.shape[1], dtype=compute, device=grad.device)
    return out.index_add_(0, places, grad.to(compute)).to(dtype or grad.dtype)


def scatter_rows_triton(
    grad: Tensor, places: Tensor, rows: int, dtype: torch.dtype | None = None
) -> Tensor:
    """[rows, d] of `dtype` (grad's if not given), by the Triton kernels."""
    grad = contiguous_rows(grad)
    count, width = grad.shape
    out = torch.empty(rows, width, dtype=dtype or grad.dtype, device=grad.device)
    if not count or not rows:
        return out.zero_()
    sorted_places, order = torch.sort(places, stable=True)
    bounds = torch.searchsorted(
        sorted_places, torch.arange(rows + 1, dtype=places.dtype, device=places.device)
    )
    sums = torch.empty(count, width, dtype=torch.float32, device=grad.device)
    _run_sums_kernel[(blocks(count, RUN), blocks(width, COLUMNS))](
        grad,
        sorted_places,
        order,
        sums,
        count,
        width,
        grad.stride(0),
        RUN=RUN,
        COLUMNS=COLUMNS,
        num_warps=4,
    )
    _place_sums_kernel[(blocks(rows, PLACES), blocks(width, 4 * COLUMNS))](
        sums,
        bounds,
        out,
        rows,
        width,
        RUN=RUN,
        HEADS=HEADS,
        PLACES=PLACES,
        COLUMNS=4 * COLUMNS,
        num_warps=4,
    )
    return out


@triton.jit
def _run_sums_kernel(  # type: ignore[no-untyped-def]
    grad_pointer,
    places_pointer,
    order_pointer,
    sums_pointer,
    count,
    width,
    grad_stride,
    RUN: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * RUN
    slot = tl.arange(0, RUN)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = first + slot < count
    both_inside = inside[:, None] & (column < width)[None, :]
    place = tl.load(places_pointer + first + slot, mask=inside, other=-1)
    # the same again along the other axis, and shifted by one to find where a run begins
    before = tl.load(places_pointer + first + slot - 1, mask=inside & (slot > 0), other=-2)
    source = tl.load(order_pointer + first + slot, mask=inside, other=0)
    grad_at = grad_pointer + source[:, None] * grad_stride + column[None, :]
    grad = tl.load(grad_at, mask=both_inside, other=0.0).to(tl.float32)
    same = (place[:, None] == place[None, :]).to(tl.float32)
    sums = tl.dot(same, grad, input_precision="ieee")
    begins = (place != before)[:, None]
    sums_at = sums_pointer + (first + slot)[:, None] * width + column[None, :]
    tl.store(sums_at, sums, mask=both_inside & begins)


@triton.jit
def _place_sums_kernel(  # type: ignore[no-untyped-def]
    sums_pointer,
    bounds_pointer,
    out_pointer,
    rows,
    width,
    RUN: tl.constexpr,
    HEADS: tl.constexpr,
    PLACES: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    first_place = tl.program_id(0).to(tl.int64) * PLACES
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    column_inside = column < width
    for place in range(first_place, tl.minimum(first_place + PLACES, rows)):
        begin = tl.load(bounds_pointer + place)
        end = tl.load(bounds_pointer + place + 1)
        total = tl.zeros([COLUMNS], dtype=tl.float32)
        # the heads of this place's runs: its begin, and every multiple of RUN up to its end
        for first in range(begin // RUN, (end + RUN - 1) // RUN, HEADS):
            head = tl.maximum((first + tl.arange(0, HEADS)) * RUN, begin)
            mask = (head < end)[:, None] & column_inside[None, :]
            sums_at = sums_pointer + head[:, None] * width + column[None, :]
            total += tl.sum(tl.load(sums_at, mask=mask, other=0.0), axis=0)
        out_at = out_pointer + place * width + column
        tl.store(out_at, total.to(out_pointer.dtype.element_ty), mask=column_inside)
