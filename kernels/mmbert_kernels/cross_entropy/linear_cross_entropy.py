"""Cross-entropy of a linear classifier over a large vocabulary, one chunk of logits at a time.

For the rows h of `hidden`, with weights u and labels y:

    z = h W^T + bias          loss = u * (log(sum_v exp z_v) - z_y)
    dz = u * (softmax(z) - onehot(y))        dh = dz W        dW = dz^T h        dbias = sum of dz

Rows are processed in chunks, and only one chunk of logits exists at a time. The forward pass also
computes the gradients while it has the logits, so that nothing is recomputed; the backward pass
only scales them. This requires the same upstream gradient for all rows, as for the sum or the mean
of the losses; per-row factors are passed as `weights`. The loss and the gradients of weight and
bias are accumulated in at least float32, whatever the dtype of the arguments.

Vocabulary-parallel (Shoeybi et al. 2019): each process holds the rows [vocab_start, vocab_start +
V) of weight and bias; two small all-reduces per chunk (maxima; sums and label logits) complete the
losses. Ranges may differ in length.

On a GPU each chunk runs one matrix product, the Triton kernels of triton_kernels.py and two more
products. The reference is in cpu_blocks.py.
"""

from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mmbert_kernels.cross_entropy.cpu_blocks import Chunk, Gradients, chunk_in_blocks
from mmbert_kernels.cross_entropy.triton_kernels import softmax_gradient
from mmbert_kernels.support.checks import (
    computation_dtype,
    is_host_readable,
    require,
    require_triton_dtype,
)
from mmbert_kernels.support.dispatch import backend, fused_operation
from mmbert_kernels.support.matmul import accumulate_matmul

# Maximum bytes of a chunk of logits: on a GPU at least 2,048 rows of a vocabulary of 256,000. At
# the widths of these models, the memory traffic of weight and gradient per chunk is then small
# compared with the products.
CHUNK_BYTES = {"cuda": 2 << 30, "cpu": 1 << 30}


@fused_operation("linear_cross_entropy")
def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    labels: Tensor,
    *,
    weights: Tensor | None = None,
    vocab_start: int = 0,
    group: dist.ProcessGroup | None = None,
    chunk: int | None = None,
    main_grad: Tensor | None = None,
) -> Tensor:
    """Compute the per-row losses of `labels` under softmax(hidden @ weight.T + bias).

    Args:
        hidden: [K, d]; the same on all processes of `group`.
        weight: [V, d], this process' rows of the classifier.
        bias: [V].
        labels: int64 [K], indices into the whole vocabulary. Negative labels, and labels whose
            weight is 0, are ignored.
        weights: float32 [K], factors of the losses; default 1. Not differentiated.
        vocab_start: index of this process' first row in the whole vocabulary.
        group: process group over which the vocabulary is sharded; None for a single process.
        chunk: rows per chunk of logits; default: `default_chunk`.
        main_grad: float32 [V, d], accumulator of the weight's gradient in the backward pass.
            Without it, autograd rounds the gradient to the weight's dtype.

    Returns:
        float32 [K], the weighted losses, the same on all processes of `group`; 0 where the
        weight is 0 or the label is negative. Their upstream gradient must be the same for all
        rows of nonzero weight. With a group, the gradient of `hidden` is this process' partial
        sum, to be all-reduced by the caller.

    Raises:
        ValueError: shapes or dtypes do not match, or (on CPU) a label is out of range. The backward
            pass raises it (on a GPU, a device-side assertion) if the upstream gradient differs
            between rows.
    """
    _check(hidden, weight, bias, labels, weights, chunk)
    require(
        main_grad is None
        or (main_grad.shape == weight.shape and main_grad.dtype == computation_dtype(weight.dtype)),
        f"linear_cross_entropy: main_grad must be float32{list(weight.shape)}",
    )
    ignored = labels < 0
    factors = torch.ones_like(labels, dtype=torch.float32) if weights is None else weights
    factors = factors.detach().masked_fill(ignored, 0.0)
    labels = labels.masked_fill(ignored | (factors == 0), vocab_start)
    if group is None and is_host_readable(labels) and labels.numel():
        require(
            int(labels.max()) < vocab_start + weight.shape[0],
            f"linear_cross_entropy: label {int(labels.max())} is outside the vocabulary of "
            f"{vocab_start + weight.shape[0]}",
        )
    if chunk is None:
        chunk = default_chunk(hidden.device.type, weight.shape[0], hidden.element_size())
    losses: Tensor = _LinearCrossEntropy.apply(
        hidden, weight, bias, labels, factors, vocab_start, group, chunk, main_grad
    )
    return losses


def linear_cross_entropy_reference(
    hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Compute `linear_cross_entropy` with all logits at once, in one process."""
    compute = computation_dtype(hidden.dtype)
    logits = hidden.to(compute) @ weight.to(compute).T + bias.to(compute)
    losses = torch.nn.functional.cross_entropy(
        logits, labels.clamp(min=-1), reduction="none", ignore_index=-1
    )
    return losses if weights is None else losses * weights


def default_chunk(device_type: str, vocabulary: int, element_size: int) -> int:
    """Return the rows per chunk that fit CHUNK_BYTES: a multiple of 64, at least 64."""
    limit = CHUNK_BYTES.get(device_type, CHUNK_BYTES["cpu"])
    return max(64, limit // (max(vocabulary, 1) * element_size) // 64 * 64)


class _LinearCrossEntropy(torch.autograd.Function):
    """Computes losses and unit gradients in forward; scales the gradients in backward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        labels: Tensor,
        factors: Tensor,
        vocab_start: int,
        group: dist.ProcessGroup | None,
        chunk: int,
        main_grad: Tensor | None,
    ) -> Tensor:
        use_triton = backend("linear_cross_entropy", hidden.device.type) == "triton"
        if use_triton:
            require_triton_dtype("linear_cross_entropy", hidden)
        compute = computation_dtype(hidden.dtype)
        losses = hidden.new_empty(hidden.shape[0], dtype=compute)
        gradients = None
        if any(ctx.needs_input_grad[:3]):
            new = torch.empty_like if len(hidden) else torch.zeros_like
            gradients = Gradients(
                hidden=torch.empty_like(hidden),
                weight=new(weight, dtype=compute, memory_format=torch.contiguous_format),
                bias=new(bias, dtype=compute),
            )
        run = _chunk_by_triton if use_triton else chunk_in_blocks
        for first in range(0, hidden.shape[0], chunk):
            part = slice(first, first + chunk)
            chunk_gradients = gradients and replace(gradients, hidden=gradients.hidden[part])
            run(
                Chunk(hidden[part], labels[part] - vocab_start, factors[part], losses[part]),
                weight,
                bias,
                chunk_gradients,
                first == 0,
                group,
            )
        if gradients is not None:
            ctx.gradients, ctx.main_grad = gradients, main_grad
            ctx.save_for_backward(factors)
            ctx.dtypes = weight.dtype, bias.dtype
        return losses

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (factors,) = ctx.saved_tensors
        if ctx.gradients is None:
            raise RuntimeError("linear_cross_entropy: backward may run only once")
        # Scaled in place: the weight's gradient is the largest tensor of the whole step.
        gradients, ctx.gradients = ctx.gradients, None
        scale = _common_gradient(upstream, factors)
        weight_dtype, bias_dtype = ctx.dtypes
        if ctx.main_grad is None:
            weight_grad = _scaled(gradients.weight, scale, weight_dtype)
        else:
            weight_grad = None
            ctx.main_grad.addcmul_(gradients.weight, scale)
        return (
            gradients.hidden.mul_(scale),
            weight_grad,
            _scaled(gradients.bias, scale, bias_dtype),
            *(None,) * 6,
        )


def _scaled(gradient: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Return gradient * scale in `dtype`, in place if the gradient has that dtype."""
    out = gradient if gradient.dtype == dtype else torch.empty_like(gradient, dtype=dtype)
    return torch.mul(gradient, scale, out=out)


def _chunk_by_triton(
    chunk: Chunk,
    weight: Tensor,
    bias: Tensor,
    gradients: Gradients | None,
    is_first: bool,
    group: dist.ProcessGroup | None,
) -> None:
    """Triton counterpart of `chunk_in_blocks`; materializes all logits of the chunk."""
    logits = torch.addmm(bias, chunk.hidden, weight.t())
    column_sums = softmax_gradient(logits, chunk.labels, chunk.factors, chunk.losses, group)
    if gradients is None:
        return
    torch.mm(logits, weight, out=gradients.hidden)
    if is_first:
        gradients.bias.zero_()
    gradients.bias.add_(column_sums)
    accumulate_matmul(gradients.weight, logits.t(), chunk.hidden, kept=0 if is_first else 1)


def _common_gradient(upstream: Tensor, factors: Tensor) -> Tensor:
    """Return the upstream gradient common to all rows of nonzero weight, as a scalar tensor."""
    counted = factors != 0
    if upstream.numel() == 0:
        return upstream.new_zeros(())
    highest = upstream.masked_fill(~counted, -torch.inf).amax()
    lowest = upstream.masked_fill(~counted, torch.inf).amin()
    none_counted = highest < lowest
    common = (highest == lowest) | none_counted | highest.isnan()
    message = (
        "linear_cross_entropy: the upstream gradient differs between rows; reduce the losses by "
        "sum or mean, and pass per-row factors as `weights`"
    )
    if is_host_readable(common):
        require(bool(common), message)
    else:
        torch._assert_async(common, message)
    return torch.where(none_counted, torch.zeros_like(highest), highest)


def _check(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    labels: Tensor,
    weights: Tensor | None,
    chunk: int | None,
) -> None:
    rows = hidden.shape[0] if hidden.ndim == 2 else -1
    require(
        hidden.ndim == 2
        and weight.ndim == 2
        and weight.shape[1] == hidden.shape[1]
        and bias.shape == weight.shape[:1],
        "linear_cross_entropy: hidden must be [K, d], weight [V, d], bias [V]; got "
        f"{list(hidden.shape)}, {list(weight.shape)}, {list(bias.shape)}",
    )
    require(weight.shape[0] > 0, "linear_cross_entropy: this process has no rows of the weight")
    require(
        hidden.dtype == weight.dtype == bias.dtype,
        "linear_cross_entropy: hidden, weight and bias must have the same dtype; got "
        f"{hidden.dtype}, {weight.dtype}, {bias.dtype}",
    )
    require(
        labels.shape == (rows,) and labels.dtype == torch.int64,
        f"linear_cross_entropy: labels must be int64[{rows}]; got "
        f"{labels.dtype}{list(labels.shape)}",
    )
    require(
        weights is None or (weights.shape == (rows,) and weights.dtype == torch.float32),
        f"linear_cross_entropy: weights must be float32[{rows}]",
    )
    require(
        chunk is None or chunk > 0, f"linear_cross_entropy: chunk must be positive; got {chunk}"
    )
