"""Checks of a case with other memory layouts and with empty arguments."""

import torch
from torch import Tensor

from tests.kernels.case import EMPTY, SMALL, Case, Function
from tests.kernels.comparison import as_tuple


def outputs_and_gradients(
    call: Function, arguments: tuple[Tensor, ...], differentiated: tuple[bool, ...]
) -> list[Tensor]:
    """Return outputs, then gradients for constant upstream gradients."""
    leaves = [
        argument.detach().requires_grad_(wanted)
        for argument, wanted in zip(arguments, differentiated, strict=True)
    ]
    outputs = as_tuple(call(*leaves))
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    results = [output.detach() for output in outputs]
    if wanted:
        total = torch.stack([output.float().sum() for output in outputs]).sum()
        results += torch.autograd.grad(total, wanted)
    return results


def apart(tensor: Tensor) -> Tensor:
    """Return a strided copy with invalid values between the elements."""
    wrong = torch.full_like(tensor, torch.nan if tensor.is_floating_point() else -(10**6))
    return torch.stack((tensor, wrong), dim=-1)[..., 0]


def transposed(tensor: Tensor) -> Tensor:
    """Return a copy in which the first dimension has stride 1."""
    order = tuple(reversed(range(tensor.ndim)))
    return tensor.permute(order).contiguous().permute(order)


def check_layouts(case: Case) -> None:
    """Assert that results do not depend on the layout of the arguments."""
    problem = case.problem(SMALL, torch.float32)
    differentiated = tuple(argument.requires_grad for argument in problem.arguments)
    given = tuple(argument.detach() for argument in problem.arguments)
    expected = outputs_and_gradients(problem.call, given, differentiated)
    for layout in (apart, transposed):
        arguments = tuple(layout(argument) for argument in given)
        assert any(not argument.is_contiguous() for argument in arguments)
        results = outputs_and_gradients(problem.call, arguments, differentiated)
        for one, other in zip(results, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def check_empty(case: Case) -> None:
    """Assert that without tokens outputs are empty and gradients of weights zero."""
    problem = case.problem(EMPTY, torch.float32)
    differentiated = tuple(argument.requires_grad for argument in problem.arguments)
    results = outputs_and_gradients(problem.call, problem.arguments, differentiated)
    assert results[0].shape[0] == 0
    for result in results:
        assert not result.any()
