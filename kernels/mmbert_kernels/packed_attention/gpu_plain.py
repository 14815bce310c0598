"""Attention of blocks of queries to blocks of keys in plain PyTorch, for any device and dtype.

Scores are computed for QUERIES queries of a block at a time and recomputed in the backward pass,
so that memory is linear in the number of keys; with `causal`, of the keys up to the last of these
queries. Narrow dtypes are computed in float32. All sums are
deterministic. With S = q k^T / sqrt D + mask:

    P = exp(S - log_sum)        out = P v
    dv = P^T dout        dS = P * (dout v^T - sum(dout * out))        dq = dS k        dk = dS^T q
"""

import math

import torch
from torch import Tensor

from mmbert_kernels.support.checks import computation_dtype

# Queries per iteration: 100 MB of float32 scores for 12 heads (base) and 8,192 keys.
QUERIES = 256


def plain_forward(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Return outputs [B, H, Q, D] and the log-sum-exps [B, H, Q] of the scores.

    Args:
        query: [B, H, Q, D].
        key: [B, H, K, D].
        value: [B, H, K, D].
        mask: [B, 1, Q, K], added to the scores; None if every query attends to every key.
        causal: query i attends to the keys up to i. Without a mask, and with as many keys as
            queries.
    """
    query, key, value = _widened(query, key, value)
    scale = 1 / math.sqrt(query.shape[3])
    out, log_sum = torch.empty_like(query), query.new_empty(query.shape[:3])
    for queries, keys in _pieces(query.shape[2], key.shape[2], causal=causal):
        scaled = query[:, :, queries] * scale
        scores = _scores(scaled, key[:, :, keys], mask, queries, causal=causal)
        maxima = scores.amax(dim=3, keepdim=True)
        sums = scores.sub_(maxima).exp_().sum(dim=3, keepdim=True)
        out[:, :, queries] = (scores @ value[:, :, keys]).div_(sums)
        log_sum[:, :, queries] = (maxima + sums.log())[..., 0]
    return out, log_sum


def plain_backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    log_sum: Tensor,
    mask: Tensor | None,
    *,
    causal: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value.

    `out` and `log_sum` are the results of `plain_forward` for the same other arguments.
    """
    grad_out, query, key, value, out = _widened(grad_out, query, key, value, out)
    scale = 1 / math.sqrt(query.shape[3])
    along = (grad_out * out).sum(dim=3, keepdim=True)
    grad_query = torch.empty_like(query)
    grad_key, grad_value = torch.zeros_like(key), torch.zeros_like(value)
    for queries, keys in _pieces(query.shape[2], key.shape[2], causal=causal):
        scaled, upstream = query[:, :, queries] * scale, grad_out[:, :, queries]
        weights = _scores(scaled, key[:, :, keys], mask, queries, causal=causal)
        weights.sub_(log_sum[:, :, queries, None]).exp_()
        grad_value[:, :, keys] += weights.transpose(2, 3) @ upstream
        scores = upstream @ value[:, :, keys].transpose(2, 3)
        scores.sub_(along[:, :, queries]).mul_(weights)
        grad_query[:, :, queries] = scores @ key[:, :, keys]
        grad_key[:, :, keys] += scores.transpose(2, 3) @ scaled
    return grad_query.mul_(scale), grad_key, grad_value


def _widened(*tensors: Tensor) -> list[Tensor]:
    return [tensor.to(computation_dtype(tensor.dtype)) for tensor in tensors]


def _pieces(queries: int, keys: int, *, causal: bool) -> list[tuple[slice, slice]]:
    """Return the queries of each piece, and the keys that they attend to."""
    starts = range(0, queries, QUERIES)
    pieces = [slice(first, min(first + QUERIES, queries)) for first in starts]
    return [(piece, slice(0, piece.stop if causal else keys)) for piece in pieces]


def _scores(
    scaled: Tensor, key: Tensor, mask: Tensor | None, queries: slice, *, causal: bool
) -> Tensor:
    scores = scaled @ key.transpose(2, 3)
    if causal:
        count = queries.stop - queries.start
        later = torch.ones(count, count, dtype=torch.bool, device=key.device).triu_(1)
        scores[..., queries.start :].masked_fill_(later, -torch.inf)
    return scores if mask is None else scores.add_(mask[:, :, queries])
