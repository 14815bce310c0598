"""Hooks that all-reduce partial gradients, and float32 gradients outside of autograd.

With sequence parallelism each tensor rank applies the norms to its own tokens and has a partial
gradient of their weights. A hook on the parameter sums the partial gradients before anything else
reads them: it runs ahead of DeepSpeed's hooks, whether registered before or after
deepspeed.initialize, and once per backward pass. Without it the copies of the parameter drift
apart, with no sign in the loss.

Autograd gives a bfloat16 weight a bfloat16 gradient. The gradient of the tied embedding table is a
float32 sum over all masked tokens, and can be accumulated over microbatches without rounding.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mmbert.parallel.collectives import all_reduce
from mmbert.parallel.parameter_spec import spec_of
from mmbert.parallel.process_grid import Group


def all_reduce_partial_gradients(model: nn.Module, group: Group) -> list[RemovableHandle]:
    """Register an all-reduce hook on every parameter whose spec is `sequence_parallel`.

    Returns the hooks' handles, one per parameter.
    """
    return [
        parameter.register_hook(partial(_sum, group=group))
        for parameter in model.parameters()
        if spec_of(parameter).sequence_parallel
    ]


def attach_main_grad(parameter: nn.Parameter, total: Tensor) -> None:
    """Attach `total`, of the same shape, as the accumulator of the parameter's float32 gradient.

    Operations that support it add to `total` in the backward pass instead of returning a gradient.
    """
    parameter.main_grad = total  # type: ignore[attr-defined]


def main_grad(parameter: nn.Parameter) -> Tensor | None:
    """Return the tensor given to `attach_main_grad`, or None."""
    total: Tensor | None = getattr(parameter, "main_grad", None)
    return total


def _sum(gradient: Tensor, *, group: Group) -> Tensor:
    # In float32, because each part is a sum over many tokens; the tensors are only [width].
    return all_reduce(gradient.to(torch.float32), group).to(gradient.dtype)
