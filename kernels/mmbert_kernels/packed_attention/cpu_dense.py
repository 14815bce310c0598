"""Global attention over one long document on a CPU, by oneDNN matrix products per head.

PyTorch's flash kernel uses MKL (see matmul.py); where the score matrices are large enough for
oneDNN, materializing them is faster. Queries are processed in blocks, so that memory is linear in
the length. With `causal`, a block of queries multiplies the keys up to its last query only, and the
scores of later keys than a query are -inf. With S = q k^T / sqrt D:

    P = exp(S - log_sum)        out = P v
    dv = P^T dout        dS = P * (dout v^T - sum(dout * out))        dq = dS k        dk = dS^T q
"""

import math

import torch
from torch import Tensor

from mmbert_kernels.support.matmul import matmul

# Below this length the flash kernel is as fast.
MIN_TOKENS = 320
QUERIES = 1024


def dense_forward(qkv: Tensor, *, causal: bool = False) -> tuple[Tensor, Tensor]:
    """Return (out [L, H, D], log_sum [H, L]) of one document's qkv [L, 3, H, D]."""
    query, key, value = _by_heads(qkv)
    heads, length, _ = query.shape
    out, log_sum = torch.empty_like(query), query.new_empty(heads, length)
    for head in range(heads):
        for first in range(0, length, QUERIES):
            block, keys = _block(first, length, causal=causal)
            scores = _scores(query[head, block], key[head, keys], first, causal=causal)
            maxima = scores.amax(dim=1, keepdim=True)
            sums = scores.sub_(maxima).exp_().sum(dim=1, keepdim=True)
            torch.div(matmul(scores, value[head, keys]), sums, out=out[head, block])
            log_sum[head, block] = (maxima + sums.log())[:, 0]
    return out.transpose(0, 1), log_sum


def dense_backward(
    grad_out: Tensor, qkv: Tensor, out: Tensor, log_sum: Tensor, *, causal: bool = False
) -> Tensor:
    """Return the gradient of qkv, [L, 3, H, D]."""
    query, key, value = _by_heads(qkv)
    upstream = grad_out.transpose(0, 1).contiguous()
    along = (grad_out * out).sum(dim=2).t()
    heads, length, size = query.shape
    grad = qkv.new_zeros(3, heads, length, size)
    for head in range(heads):
        for first in range(0, length, QUERIES):
            block, keys = _block(first, length, causal=causal)
            weights = _scores(query[head, block], key[head, keys], first, causal=causal)
            weights.sub_(log_sum[head, block, None]).exp_()
            grad[2, head, keys] += matmul(weights.t(), upstream[head, block])
            scores = matmul(upstream[head, block], value[head, keys].t())
            scores.sub_(along[head, block, None]).mul_(weights)
            grad[0, head, block] = matmul(scores, key[head, keys])
            grad[1, head, keys] += matmul(scores.t(), query[head, block])
    grad[0] /= math.sqrt(size)
    return grad.permute(2, 0, 1, 3)


def _block(first: int, length: int, *, causal: bool) -> tuple[slice, slice]:
    """Return the queries of the block that begins at `first`, and the keys that they attend to."""
    block = slice(first, min(first + QUERIES, length))
    return block, slice(0, block.stop if causal else length)


def _scores(query: Tensor, key: Tensor, first: int, *, causal: bool) -> Tensor:
    """Return the scores [queries, keys] of a block of scaled queries that begins at `first`."""
    scores = matmul(query, key.t())
    if causal:
        later = torch.ones(len(query), len(query), dtype=torch.bool).triu_(1)
        scores[:, first:].masked_fill_(later, -torch.inf)
    return scores


def _by_heads(qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return scaled queries, keys and values, each contiguous [H, L, D]."""
    query, key, value = qkv.permute(1, 2, 0, 3).contiguous()
    return query.mul_(1 / math.sqrt(qkv.shape[3])), key, value
