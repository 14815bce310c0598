"""The two linear maps of tensor parallelism as autograd functions that overlap communication.

Backward, the sum of the input's gradients over the group travels while the weight's gradient is
computed. What is saved is the rank's own tokens (not the gathered ones, which are gathered again)
and the parameter itself, not a view of it: under ZeRO 3 a saved view would keep the gathered
weight alive. With a group of one these are an ordinary bias-free linear.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mmbert.parallel.collectives import (
    all_gather_single,
    all_gather_tokens,
    reduce_scatter_single,
)
from mmbert.parallel.process_grid import Group
from mmbert_kernels import matmul


@dataclass(frozen=True)
class InputRecompute:
    """How to make a linear's input again when the backward pass needs it: function(source, …)."""

    function: Callable[..., Tensor]
    source: Tensor
    constants: tuple[Any, ...] = ()

    def __call__(self) -> Tensor:
        with torch.no_grad():
            return self.function(self.source, *self.constants)


def column_linear(
    x: Tensor,
    weight: Tensor,
    group: Group,
    *,
    sequence_parallel: bool,
    recompute_input: InputRecompute | None = None,
) -> Tensor:
    """x[T, in] (or [T / size, in] with sequence parallelism) · weight[out_r, in]ᵀ -> [T, out_r].

    With `recompute_input` the input is not kept for the backward pass, only what rebuilds it.
    """
    return _ColumnLinear.apply(x, weight, _How(group, sequence_parallel, recompute_input))


def row_linear(
    x: Tensor,
    weight: Tensor,
    group: Group,
    *,
    sequence_parallel: bool,
    recompute_input: InputRecompute | None = None,
) -> Tensor:
    """x[T, in_r] · weight[out, in_r]ᵀ, summed over the group -> [T, out], or its rank's shard
    [T / size, out] with sequence parallelism. `recompute_input` as in `column_linear`.
    """
    return _RowLinear.apply(x, weight, _How(group, sequence_parallel, recompute_input))


@dataclass(frozen=True)
class _How:
    """What the two functions below need besides their tensors."""

    group: Group
    sequence_parallel: bool
    recompute_input: InputRecompute | None


class _Pending:
    """A collective under way and the tensor that will hold its result."""

    def __init__(self, result: Tensor, work: "dist.Work | None") -> None:
        self._result, self._work = result, work

    def wait(self) -> Tensor:
        if self._work is not None:
            self._work.wait()
        return self._result


def _start_sum(partial: Tensor, group: Group, *, scatter: bool) -> _Pending:
    """Start summing `partial` over the group (into its own memory, or into this rank's shard)."""
    if group.size == 1:
        return _Pending(partial, None)
    if not scatter:
        return _Pending(partial, dist.all_reduce(partial, group=group.group, async_op=True))
    shard = partial.new_empty((partial.shape[0] // group.size, *partial.shape[1:]))
    work = reduce_scatter_single(shard, partial, group=group.group, async_op=True)
    return _Pending(shard, work)


def _start_gather(x: Tensor, group: Group, *, needed: bool) -> _Pending:
    """Start gathering all ranks' tokens, if that is needed."""
    if group.size == 1 or not needed:
        return _Pending(x, None)
    tokens = x.new_empty((x.shape[0] * group.size, *x.shape[1:]))
    work = all_gather_single(tokens, x.contiguous(), group=group.group, async_op=True)
    return _Pending(tokens, work)


def _save(ctx: Any, x: Tensor, weight: Tensor, how: _How) -> None:
    ctx.group, ctx.sequence_parallel = how.group, how.sequence_parallel
    # The source goes the ordinary way too, so that autograd frees it as the backward pass goes on.
    ctx.save_for_backward(x if how.recompute_input is None else how.recompute_input.source, weight)
    ctx.recompute_input = how.recompute_input and (
        how.recompute_input.function,
        how.recompute_input.constants,
    )


def _saved(ctx: Any) -> tuple[Tensor, Tensor]:
    x, weight = ctx.saved_tensors
    if ctx.recompute_input is not None:
        function, constants = ctx.recompute_input
        x = InputRecompute(function, x, constants)()
    return x, weight


class _ColumnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, how: _How) -> Tensor:
        _save(ctx, x, weight, how)
        tokens = all_gather_tokens(x, how.group) if how.sequence_parallel else x
        return matmul(tokens, weight.t())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = _saved(ctx)
        gradient = gradients[0].contiguous()
        tokens = _start_gather(x, ctx.group, needed=ctx.sequence_parallel)
        x_gradient = _start_sum(matmul(gradient, weight), ctx.group, scatter=ctx.sequence_parallel)
        weight_gradient = matmul(gradient.t(), tokens.wait())
        return x_gradient.wait(), weight_gradient, None


class _RowLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, how: _How) -> Tensor:
        _save(ctx, x, weight, how)
        partial = matmul(x, weight.t())
        return _start_sum(partial, how.group, scatter=how.sequence_parallel).wait()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = _saved(ctx)
        gradient = gradients[0].contiguous()
        if ctx.sequence_parallel:
            gradient = all_gather_tokens(gradient, ctx.group)
        return matmul(gradient, weight), matmul(gradient.t(), x), None
