"""Gradients that take another way than autograd's: partial ones, and one kept in float32.

With sequence parallelism each tensor rank runs the norms on its own tokens, so each holds a part
of their gradient. A hook on the parameter sums the parts before anything else sees the gradient:
it runs ahead of DeepSpeed's own hooks, whether registered before or after deepspeed.initialize,
and once per backward pass. Forgetting it does not show in the loss; the copies drift apart.

Autograd gives a bfloat16 weight a bfloat16 gradient. The vocabulary's weight has one that is a sum
over all masked tokens in float32: whoever keeps float32 sums over microbatches can have it whole.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mmbert.parallel.collectives import all_reduce
from mmbert.parallel.parameter_spec import spec_of
from mmbert.parallel.process_grid import Group


def all_reduce_partial_gradients(model: nn.Module, group: Group) -> list[RemovableHandle]:
    """Hook every parameter whose description says that its gradient is partial.

    Returns the hooks' handles, one a parameter.
    """
    return [
        parameter.register_hook(partial(_sum, group=group))
        for parameter in model.parameters()
        if spec_of(parameter).sequence_parallel
    ]


def attach_main_grad(parameter: nn.Parameter, total: Tensor) -> None:
    """Let operations that have `parameter`'s gradient in float32 add it to `total` (of its shape)
    during the backward pass, and give autograd none."""
    parameter.main_grad = total  # type: ignore[attr-defined]


def main_grad(parameter: nn.Parameter) -> Tensor | None:
    """Where a float32 gradient of `parameter` is to be added, if anybody collects it."""
    total: Tensor | None = getattr(parameter, "main_grad", None)
    return total


def _sum(gradient: Tensor, *, group: Group) -> Tensor:
    # In float32, as the parts are sums over many tokens; the tensors are as small as the width.
    return all_reduce(gradient.to(torch.float32), group).to(gradient.dtype)
