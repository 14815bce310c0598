"""Deterministic scatter-add of rows, the backward pass of a gather.

    out[r] = sum of grad[k] over the k with indices[k] = r

Rows are summed in at least float32, whatever their dtype, and in a fixed order. In Triton:

1. Unsorted indices are sorted (stably), so that rows of the same index are adjacent.
2. Each program takes a block of 32 rows and sums those of equal index by a product with the 32 x 32
   matrix of index equality. A run of equal indices inside the block is written to the result; one
   that crosses the block's edge is stored as a partial sum.
3. The partial sums of a run that spans several blocks are added in order. The mask token's
   embedding receives thousands of rows this way.
"""

# ruff: noqa: N803  (Triton's compile-time arguments are in capitals)

import torch
from torch import Tensor

from mmbert_kernels.support.checks import computation_dtype
from mmbert_kernels.support.triton_import import blocks, contiguous_rows, launch, tl, triton

BLOCK_ROWS = 32
BLOCK_N = 128
# Partial sums of one index per iteration.
BLOCK_PARTS = 32


def scatter_rows_reference(
    grad: Tensor, indices: Tensor, rows: int, dtype: torch.dtype | None = None
) -> Tensor:
    """Scatter-add to [rows, d] in plain PyTorch, deterministic on CPUs only.

    `dtype`: dtype of the result; default: grad's.
    """
    compute = computation_dtype(grad.dtype)
    out = torch.zeros(rows, grad.shape[1], dtype=compute, device=grad.device)
    return out.index_add_(0, indices, grad.to(compute)).to(dtype or grad.dtype)


def scatter_rows_triton(
    grad: Tensor,
    indices: Tensor,
    rows: int,
    dtype: torch.dtype | None = None,
    *,
    ascending: bool = False,
) -> Tensor:
    """Scatter-add to [rows, d] by the Triton kernels.

    `dtype`: dtype of the result; default: grad's. `ascending`: whether `indices` is sorted.
    """
    grad, indices = contiguous_rows(grad), indices.contiguous()
    count, width = grad.shape
    out = torch.zeros(rows, width, dtype=dtype or grad.dtype, device=grad.device)
    if not count or not rows:
        return out
    order = None
    if not ascending:
        # int32 halves the bits to sort by.
        indices, order = torch.sort(indices.to(torch.int32), stable=True)
    row_blocks = blocks(count, BLOCK_ROWS)
    parts = torch.empty(row_blocks, 2, width, dtype=torch.float32, device=grad.device)
    grid = row_blocks, blocks(width, BLOCK_N)
    launch(
        _block_sums_kernel,
        grid,
        grad,
        indices,
        order,
        out,
        parts,
        count,
        width,
        grad.stride(0),
        HAS_ORDER=order is not None,
        BLOCK_ROWS=BLOCK_ROWS,
        BLOCK_N=BLOCK_N,
        num_warps=4,
    )
    launch(
        _add_parts_kernel,
        grid,
        indices,
        out,
        parts,
        count,
        width,
        BLOCK_ROWS=BLOCK_ROWS,
        BLOCK_PARTS=BLOCK_PARTS,
        BLOCK_N=BLOCK_N,
        num_warps=4,
    )
    return out


@triton.jit
def _block_sums_kernel(  # type: ignore[no-untyped-def]
    grad_pointer,
    indices_pointer,
    order_pointer,
    out_pointer,
    parts_pointer,
    count,
    width,
    grad_stride,
    HAS_ORDER: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    block = tl.program_id(0).to(tl.int64)
    slot = block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    slot_inside, column_inside = slot < count, column < width
    index = tl.load(indices_pointer + slot, mask=slot_inside, other=-1)
    before = tl.load(indices_pointer + slot - 1, mask=slot_inside & (slot > 0), other=-2)
    source = slot
    if HAS_ORDER:
        source = tl.load(order_pointer + slot, mask=slot_inside, other=0)
    inside = slot_inside[:, None] & column_inside[None, :]
    grad_at = grad_pointer + source[:, None] * grad_stride + column[None, :]
    sums = tl.load(grad_at, mask=inside, other=0.0).to(tl.float32)
    begins = (index != before) | (slot == block * BLOCK_ROWS)
    if tl.sum(begins.to(tl.int32)) < BLOCK_ROWS:  # otherwise all are unique
        same = (index[:, None] == index[None, :]).to(tl.float32)
        sums = tl.dot(same, sums, input_precision="ieee")
    # Indices at the edges of the neighboring blocks.
    first, last = block * BLOCK_ROWS, tl.minimum(block * BLOCK_ROWS + BLOCK_ROWS, count) - 1
    first_index = tl.load(indices_pointer + first)
    last_index = tl.load(indices_pointer + last)
    index_before = tl.load(indices_pointer + tl.maximum(first - 1, 0))
    index_after = tl.load(indices_pointer + tl.minimum(last + 1, count - 1))
    goes_on_before = (first_index == index_before) & (first > 0)
    goes_on_after = (last_index == index_after) & (last + 1 < count)
    comes_from_before = (index == first_index) & goes_on_before
    goes_after = (index == last_index) & goes_on_after & (comes_from_before == 0)
    crosses = (comes_from_before | goes_after) != 0
    whole = begins & slot_inside & (crosses == 0)
    out_at = out_pointer + index.to(tl.int64)[:, None] * width + column[None, :]
    out = sums.to(out_pointer.dtype.element_ty)
    tl.store(out_at, out, mask=whole[:, None] & column_inside[None, :])
    # Part 0 belongs to the run that started in an earlier block, part 1 to one that starts here.
    part = begins & slot_inside & crosses
    parts_at = parts_pointer + (block * 2 + goes_after.to(tl.int64))[:, None] * width
    tl.store(parts_at + column[None, :], sums, mask=part[:, None] & column_inside[None, :])


@triton.jit
def _add_parts_kernel(  # type: ignore[no-untyped-def]
    indices_pointer,
    out_pointer,
    parts_pointer,
    count,
    width,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_PARTS: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    block = tl.program_id(0).to(tl.int64)
    first, after = block * BLOCK_ROWS, (block + 1) * BLOCK_ROWS
    if after < count:
        index = tl.load(indices_pointer + after - 1)
        index_before = tl.load(indices_pointer + tl.maximum(first - 1, 0))
        begins = (index != index_before) | (first == 0)
        if begins & (index == tl.load(indices_pointer + after)):  # starts here and continues
            column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
            column_inside = column < width
            at = parts_pointer + column
            total = tl.load(at + (block * 2 + 1) * width, mask=column_inside, other=0.0)
            more = block + 1
            while more >= 0:
                next_block = more + tl.arange(0, BLOCK_PARTS)
                begin = next_block * BLOCK_ROWS
                same = index == tl.load(indices_pointer + begin, mask=begin < count, other=-1)
                parts_at = at[None, :] + (next_block * 2 * width)[:, None]
                mask = same[:, None] & column_inside[None, :]
                total += tl.sum(tl.load(parts_at, mask=mask, other=0.0), axis=0)
                ended = tl.sum(same.to(tl.int32)) < BLOCK_PARTS
                more = tl.where(ended, -1, more + BLOCK_PARTS)
            out_at = out_pointer + index.to(tl.int64) * width + column
            tl.store(out_at, total.to(out_pointer.dtype.element_ty), mask=column_inside)
