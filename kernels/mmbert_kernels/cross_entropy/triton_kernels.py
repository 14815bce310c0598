"""Triton kernels of the losses of a chunk of logits and, in place, the logits' gradients.

For a row z of logits, its label y and its weight u:

    loss = u * (log(sum_v exp z_v) - z_y)          dz = u * (softmax(z) - onehot(y))

The kernels read the chunk twice and write it once. The second pass also computes the bias gradient,
the column sums, in a fixed order. With a sharded vocabulary, two all-reduces run between the
passes: the maxima (one number per row), then the sums and label logits (two).
"""

# ruff: noqa: N803  (Triton's compile-time arguments are in capitals)

import torch
import torch.distributed as dist
from torch import Tensor

from mmbert_kernels.support.triton_import import blocks, launch, tl, triton

# Columns per iteration of the first pass, and adjacent columns per running maximum: one 16-byte
# read of a lane.
STATISTICS_BLOCK_N, STATISTICS_GROUP = 4096, 8
# Tile of the second pass and rows per program. The tile is one 16-byte read per lane wide, so that
# each lane sums its own columns.
GRADIENT_BLOCK_N, GRADIENT_BLOCK_M, GRADIENT_ROWS_PER_PROGRAM = 1024, 4, 256


def softmax_gradient(
    logits: Tensor,
    labels: Tensor,
    factors: Tensor,
    losses: Tensor,
    group: dist.ProcessGroup | None,
) -> Tensor:
    """Compute the losses and replace the logits by the gradients of their losses.

    Args:
        logits: [rows, V], contiguous; overwritten.
        labels: int64 [rows], relative to this process' first vocabulary row; outside [0, V) if
            another process holds the label.
        factors: float32 [rows], the weights u.
        losses: float32 [rows], output.
        group: process group over which the vocabulary is sharded, or None.

    Returns:
        float32 [V], the column sums of the gradients.
    """
    rows, vocabulary = logits.shape
    maxima, sums, label_logits = losses.new_empty(3, rows)
    launch(
        _statistics_kernel,
        (rows,),
        logits,
        labels,
        maxima,
        sums,
        label_logits,
        vocabulary,
        BLOCK_N=STATISTICS_BLOCK_N,
        GROUP=STATISTICS_GROUP,
        num_warps=8,
    )
    if group is not None:
        own_maxima = maxima.clone()
        dist.all_reduce(maxima, dist.ReduceOp.MAX, group=group)
        both = torch.stack((sums * (own_maxima - maxima).exp(), label_logits))
        dist.all_reduce(both, group=group)
        sums, label_logits = both[0], both[1]
    torch.mul(sums.log() + maxima - label_logits, factors, out=losses)
    losses.masked_fill_(factors == 0, 0.0)  # even where the row's loss is not finite
    row_programs = blocks(rows, GRADIENT_ROWS_PER_PROGRAM)
    column_sums = torch.empty(row_programs, vocabulary, dtype=torch.float32, device=logits.device)
    launch(
        _gradient_kernel,
        (blocks(vocabulary, GRADIENT_BLOCK_N), row_programs),
        logits,
        labels,
        factors,
        maxima,
        sums,
        column_sums,
        rows,
        vocabulary,
        BLOCK_M=GRADIENT_BLOCK_M,
        ROWS_PER_PROGRAM=GRADIENT_ROWS_PER_PROGRAM,
        BLOCK_N=GRADIENT_BLOCK_N,
        num_warps=4,
    )
    return column_sums.sum(dim=0)


@triton.jit
def _statistics_kernel(  # type: ignore[no-untyped-def]
    logits_pointer,
    labels_pointer,
    maxima_pointer,
    sums_pointer,
    label_logits_pointer,
    vocabulary,
    BLOCK_N: tl.constexpr,
    GROUP: tl.constexpr,
):
    row = tl.program_id(0)
    row_at = logits_pointer + row.to(tl.int64) * vocabulary
    # Each lane keeps a running maximum and sum of its columns; they are combined at the end.
    lane = tl.arange(0, BLOCK_N // GROUP)[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    maximum = tl.full([BLOCK_N // GROUP], float("-inf"), dtype=tl.float32)
    total = tl.zeros([BLOCK_N // GROUP], dtype=tl.float32)
    for first in range(0, vocabulary, BLOCK_N):
        column = first + lane
        logits = tl.load(row_at + column, mask=column < vocabulary, other=float("-inf"))
        logits = logits.to(tl.float32)
        higher = tl.maximum(maximum, tl.max(logits, axis=1))
        # If all columns so far are masked, the maximum is -inf and the sum must stay 0.
        reference = tl.where(higher > float("-inf"), higher, 0.0)
        exponentials = tl.exp(logits - reference[:, None])
        total = total * tl.exp(maximum - reference) + tl.sum(exponentials, axis=1)
        maximum = higher
    row_maximum = tl.max(maximum, axis=0)
    row_total = tl.sum(total * tl.exp(maximum - row_maximum), axis=0)
    label = tl.load(labels_pointer + row)
    here = (label >= 0) & (label < vocabulary)
    label_logit = tl.load(row_at + label, mask=here, other=0.0).to(tl.float32)
    tl.store(maxima_pointer + row, row_maximum)
    tl.store(sums_pointer + row, row_total)
    tl.store(label_logits_pointer + row, label_logit)


@triton.jit
def _gradient_kernel(  # type: ignore[no-untyped-def]
    logits_pointer,
    labels_pointer,
    factors_pointer,
    maxima_pointer,
    sums_pointer,
    column_sums_pointer,
    rows,
    vocabulary,
    BLOCK_M: tl.constexpr,
    ROWS_PER_PROGRAM: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    column_inside = column < vocabulary
    column_sums = tl.zeros([BLOCK_N], dtype=tl.float32)
    first_row = tl.program_id(1) * ROWS_PER_PROGRAM
    for first in range(first_row, tl.minimum(first_row + ROWS_PER_PROGRAM, rows), BLOCK_M):
        row = first + tl.arange(0, BLOCK_M)
        row_inside = row < rows
        inside = row_inside[:, None] & column_inside[None, :]
        at = logits_pointer + row.to(tl.int64)[:, None] * vocabulary + column[None, :]
        logits = tl.load(at, mask=inside, other=float("-inf")).to(tl.float32)
        maximum = tl.load(maxima_pointer + row, mask=row_inside, other=0.0)
        total = tl.load(sums_pointer + row, mask=row_inside, other=1.0)
        factor = tl.load(factors_pointer + row, mask=row_inside, other=0.0)
        label = tl.load(labels_pointer + row, mask=row_inside, other=-1)
        gradient = tl.exp(logits - maximum[:, None]) * (factor / total)[:, None]
        gradient -= tl.where(column[None, :] == label[:, None], factor[:, None], 0.0)
        column_sums += tl.sum(gradient, axis=0)
        tl.store(at, gradient.to(logits_pointer.dtype.element_ty), mask=inside)
    sums_at = column_sums_pointer + tl.program_id(1).to(tl.int64) * vocabulary + column
    tl.store(sums_at, column_sums, mask=column_inside)
