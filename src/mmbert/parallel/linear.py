"""Column-parallel and row-parallel linear functions with overlapped communication.

The column-parallel backward pass sums the input's gradient over the group while it computes the
weight's. The rank's own tokens are saved (and gathered again in the backward pass), with the
parameter itself: under ZeRO 3 a saved view would keep the gathered weight alive. With a group of
size one, both functions are an ordinary bias-free linear.
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
    """Recomputation of a linear's input in the backward pass: function(source, *constants)."""

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
    """Compute x [T, in] · weight [out_r, in]ᵀ, [T, out_r].

    With sequence parallelism x is the rank's shard, [T / size, in]. With `recompute_input`, its
    source is saved instead of x.
    """
    return _ColumnLinear.apply(x, weight, _LinearOptions(group, sequence_parallel, recompute_input))


def row_linear(
    x: Tensor,
    weight: Tensor,
    group: Group,
    *,
    sequence_parallel: bool,
    recompute_input: InputRecompute | None = None,
) -> Tensor:
    """Compute x [T, in_r] · weight [out, in_r]ᵀ summed over the group, [T, out].

    With sequence parallelism the result is the rank's shard, [T / size, out]. `recompute_input` as
    in `column_linear`.
    """
    return _RowLinear.apply(x, weight, _LinearOptions(group, sequence_parallel, recompute_input))


@dataclass(frozen=True)
class _LinearOptions:
    """Non-tensor arguments of the autograd functions."""

    group: Group
    sequence_parallel: bool
    recompute_input: InputRecompute | None


class _AsyncResult:
    """An asynchronous collective and the tensor that receives its result."""

    def __init__(self, result: Tensor, work: "dist.Work | None") -> None:
        self._result, self._work = result, work

    def wait(self) -> Tensor:
        if self._work is not None:
            self._work.wait()
        return self._result


def _start_sum(partial: Tensor, group: Group, *, scatter: bool) -> _AsyncResult:
    """Start an in-place all-reduce of `partial` or, with `scatter`, a reduce-scatter of tokens."""
    if group.size == 1:
        return _AsyncResult(partial, None)
    if not scatter:
        return _AsyncResult(partial, dist.all_reduce(partial, group=group.group, async_op=True))
    shard = partial.new_empty((partial.shape[0] // group.size, *partial.shape[1:]))
    work = reduce_scatter_single(shard, partial, group=group.group, async_op=True)
    return _AsyncResult(shard, work)


def _start_gather(x: Tensor, group: Group, *, needed: bool) -> _AsyncResult:
    """Start an all-gather of the tokens, if `needed`."""
    if group.size == 1 or not needed:
        return _AsyncResult(x, None)
    tokens = x.new_empty((x.shape[0] * group.size, *x.shape[1:]))
    work = all_gather_single(tokens, x.contiguous(), group=group.group, async_op=True)
    return _AsyncResult(tokens, work)


def _save(ctx: Any, x: Tensor, weight: Tensor, options: _LinearOptions) -> None:
    ctx.group, ctx.sequence_parallel = options.group, options.sequence_parallel
    # Save the source through autograd too, so that it is freed during the backward pass.
    ctx.save_for_backward(
        x if options.recompute_input is None else options.recompute_input.source, weight
    )
    ctx.recompute_input = options.recompute_input and (
        options.recompute_input.function,
        options.recompute_input.constants,
    )


def _saved(ctx: Any) -> tuple[Tensor, Tensor]:
    x, weight = ctx.saved_tensors
    if ctx.recompute_input is not None:
        function, constants = ctx.recompute_input
        x = InputRecompute(function, x, constants)()
    return x, weight


class _ColumnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, options: _LinearOptions) -> Tensor:
        _save(ctx, x, weight, options)
        tokens = all_gather_tokens(x, options.group) if options.sequence_parallel else x
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
    def forward(ctx: Any, x: Tensor, weight: Tensor, options: _LinearOptions) -> Tensor:
        _save(ctx, x, weight, options)
        partial = matmul(x, weight.t())
        return _start_sum(partial, options.group, scatter=options.sequence_parallel).wait()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = _saved(ctx)
        gradient = gradients[0].contiguous()
        if ctx.sequence_parallel:
            gradient = all_gather_tokens(gradient, ctx.group)
        return matmul(gradient, weight), matmul(gradient.t(), x), None
