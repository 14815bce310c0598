"""Differentiable collectives over a tensor group, in conjugate pairs.

| forward                      | backward       | where                                     |
| ---------------------------- | -------------- | ----------------------------------------- |
| copy_to_group                | all-reduce     | replicated tokens enter sharded weights   |
| reduce_from_group            | identity       | partial sums become replicated tokens     |
| reduce_scatter_tokens        | all-gather     | partial sums become sharded tokens        |
| gather_tokens_for_replicated | split          | sharded tokens enter replicated weights   |

The fifth pair, all-gather and reduce-scatter where sharded tokens enter sharded weights, is part
of linear.py. The right gather depends on the consumer: with sharded weights every rank has a
partial gradient (to be summed), with replicated weights every rank has the whole gradient (a sum
would multiply it by the group's size). Tokens are dimension 0. With a group of size one every
function returns its input. Shoeybi et al. 2019, Korthikanti et al. 2022.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from mmbert.parallel.process_grid import Group

# torch 2.13 renamed these two and warns at every use of the old names; 2.11 has the old ones only.
all_gather_single = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
reduce_scatter_single = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)


def all_reduce(x: Tensor, group: Group) -> Tensor:
    """Return the sum of `x` over the group as a new tensor; not differentiable."""
    if group.size == 1:
        return x
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=group.group)
    return total


def all_gather_tokens(x: Tensor, group: Group) -> Tensor:
    """Concatenate every rank's [n, …], in rank order, to [n * size, …]; not differentiable."""
    if group.size == 1:
        return x
    gathered = x.new_empty((x.shape[0] * group.size, *x.shape[1:]))
    all_gather_single(gathered, x.contiguous(), group=group.group)
    return gathered


def reduce_scatter(x: Tensor, group: Group) -> Tensor:
    """Return this rank's [n / size, …] of the sum of all ranks' [n, …]; not differentiable."""
    if group.size == 1:
        return x
    shard = x.new_empty((_shard_size(x.shape[0], group), *x.shape[1:]))
    reduce_scatter_single(shard, x.contiguous(), group=group.group)
    return shard


def gather_last_dimension(x: Tensor, group: Group, widths: list[int] | None = None) -> Tensor:
    """Concatenate every rank r's […, w_r] to […, sum of w]; not differentiable.

    `widths`: w of every rank; default: equal widths.
    """
    if group.size == 1:
        return x
    widths = widths or [x.shape[-1]] * group.size
    # Pad unequal blocks to the widest, gather, cut. Used by tests and evaluation only.
    widest = max(widths)
    padded = x.new_zeros((*x.shape[:-1], widest))
    padded[..., : x.shape[-1]] = x
    blocks = [torch.empty_like(padded) for _ in widths]
    dist.all_gather(blocks, padded, group=group.group)
    return torch.cat([b[..., :w] for b, w in zip(blocks, widths, strict=True)], dim=-1)


def _shard_size(tokens: int, group: Group) -> int:
    assert tokens % group.size == 0, f"{tokens} tokens do not divide by {group.size} ranks"
    return tokens // group.size


class _Conjugate(torch.autograd.Function):
    """Applies one function of (tensor, group) in forward and another in backward."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x: Tensor,
        group: Group,
        forward: Callable[[Tensor, Group], Tensor],
        backward: Callable[[Tensor, Group], Tensor],
    ) -> Tensor:
        ctx.group, ctx.backward_function = group, backward  # type: ignore[attr-defined]
        return forward(x, group)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx,
        *gradients: Tensor,
    ) -> tuple[Tensor, None, None, None]:
        gradient = ctx.backward_function(gradients[0], ctx.group)  # type: ignore[attr-defined]
        return gradient, None, None, None


def _identity(x: Tensor, group: Group) -> Tensor:
    return x.view_as(x)


def _local_tokens(x: Tensor, group: Group) -> Tensor:
    shard = _shard_size(x.shape[0], group)
    return x.narrow(0, group.rank * shard, shard).clone()


def copy_to_group(x: Tensor, group: Group) -> Tensor:
    """Return `x`; the backward pass sums the ranks' partial gradients."""
    return x if group.size == 1 else _Conjugate.apply(x, group, _identity, all_reduce)


def reduce_from_group(x: Tensor, group: Group) -> Tensor:
    """Return the sum of the ranks' partial `x`; the backward pass is the identity."""
    return x if group.size == 1 else _Conjugate.apply(x, group, all_reduce, _identity)


def gather_tokens_for_replicated(x: Tensor, group: Group) -> Tensor:
    """Gather [n, …] to [n * size, …] before replicated computation; backward takes its shard."""
    if group.size == 1:
        return x
    return _Conjugate.apply(x, group, all_gather_tokens, _local_tokens)


def reduce_scatter_tokens(x: Tensor, group: Group) -> Tensor:
    """Return this rank's [n / size, …] of the sum of partial [n, …]; backward all-gathers."""
    return x if group.size == 1 else _Conjugate.apply(x, group, reduce_scatter, all_gather_tokens)
