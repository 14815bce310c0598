"""Reference linear cross-entropy of a chunk of rows, in vocabulary blocks that fit a CPU's cache.

Formulas: linear_cross_entropy.py. The computation is memory-bound. Each block of logits is
exponentiated in cache, relative to the running maximum, and read once more for its two products
when all sums are known. In

    dz = u * exp(z - maximum) / sum - u * onehot(y)

the per-row scale of the exponentials is applied to the [rows, d] side of the products. The one-hot
term is a separate update of the labels' rows.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from mmbert_kernels.support.matmul import matmul

# Logits per block: 16 MiB in float32, small enough for a shared cache.
BLOCK_LOGITS = 1 << 22


@dataclass(frozen=True)
class Chunk:
    """Arguments and outputs for a chunk of rows."""

    hidden: Tensor
    """[rows, d]."""
    labels: Tensor
    """int64 [rows], relative to this process' first vocabulary row; out of range if another
    process holds the label."""
    factors: Tensor
    """float32 [rows], the weights u."""
    losses: Tensor
    """[rows], output."""


@dataclass(frozen=True)
class Gradients:
    """Gradients for an upstream gradient of 1."""

    hidden: Tensor
    """[rows, d] of a chunk, output."""
    weight: Tensor
    """[V, d], written by the first chunk and accumulated by the others."""
    bias: Tensor
    """[V], like `weight`."""


def chunk_in_blocks(
    chunk: Chunk,
    weight: Tensor,
    bias: Tensor,
    gradients: Gradients | None,
    is_first: bool,
    group: dist.ProcessGroup | None,
) -> None:
    """Compute the chunk's losses and, unless `gradients` is None, its gradients."""
    hidden, labels, losses = chunk.hidden, chunk.labels, chunk.losses
    vocabulary = weight.shape[0]
    width = max(64, BLOCK_LOGITS // len(hidden) // 64 * 64)
    maxima = torch.full_like(losses, -torch.inf)
    sums, label_logits = torch.zeros_like(losses), torch.zeros_like(losses)
    blocks: list[tuple[slice, Tensor, Tensor]] = []
    for first in range(0, vocabulary, width):
        block = slice(first, min(first + width, vocabulary))
        logits = matmul(hidden, weight[block].t())
        values = logits.to(losses.dtype).add_(bias[block])
        columns = labels - first
        here = (columns >= 0) & (columns < values.shape[1])
        chosen = values.gather(1, columns.clamp(0, values.shape[1] - 1)[:, None])[:, 0]
        label_logits += torch.where(here, chosen, 0.0)
        higher = torch.maximum(maxima, values.amax(dim=1))
        values.sub_(higher[:, None]).exp_()
        sums = sums * (maxima - higher).exp() + values.sum(dim=1)
        maxima = higher
        if gradients is not None:
            blocks.append((block, values.to(hidden.dtype), maxima))
    if group is not None:
        # Clone, because the last block's exponentials are relative to this process' own maxima.
        own, maxima = maxima, maxima.clone()
        dist.all_reduce(maxima, dist.ReduceOp.MAX, group=group)
        both = torch.stack((sums * (own - maxima).exp(), label_logits))
        dist.all_reduce(both, group=group)
        sums, label_logits = both[0], both[1]
    factors = chunk.factors.to(losses.dtype)
    torch.mul(sums.log() + maxima - label_logits, factors, out=losses)
    losses.masked_fill_(factors == 0, 0.0)  # even where the row's loss is not finite
    if gradients is not None:
        _add_gradients(chunk, weight, blocks, maxima, factors, factors / sums, gradients, is_first)


def _add_gradients(
    chunk: Chunk,
    weight: Tensor,
    blocks: list[tuple[slice, Tensor, Tensor]],
    maxima: Tensor,
    factors: Tensor,
    inverse: Tensor,
    gradients: Gradients,
    is_first: bool,
) -> None:
    hidden, labels = chunk.hidden, chunk.labels
    here = (labels >= 0) & (labels < weight.shape[0])
    columns = labels.clamp(0, weight.shape[0] - 1)
    label_scale = -torch.where(here, factors, 0.0)
    grad_hidden = weight[columns].to(factors.dtype).mul_(label_scale[:, None])
    for block, exponentials, reference in blocks:
        scale = (reference - maxima).exp() * inverse
        scaled = (hidden * scale[:, None]).to(hidden.dtype)
        weight_grad = matmul(exponentials.t(), scaled)
        bias_grad = torch.mv(exponentials.t(), scale.to(hidden.dtype))
        if is_first:
            gradients.weight[block], gradients.bias[block] = weight_grad, bias_grad
        else:
            gradients.weight[block] += weight_grad
            gradients.bias[block] += bias_grad
        grad_hidden.addcmul_(matmul(exponentials, weight[block]), scale[:, None])
    gradients.weight.index_add_(0, columns, hidden * label_scale[:, None])
    gradients.bias.index_add_(0, columns, label_scale)
    gradients.hidden.copy_(grad_hidden)
