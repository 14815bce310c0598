"""Comparison of computed tensors with float64 formulas."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tests.kernels.case import Case, Function, Sizes

# Error of one rounding: half the distance from 1 to the next number of each dtype.
ROUNDING = {
    torch.float64: 2.0**-53,
    torch.float32: 2.0**-24,
    torch.float16: 2.0**-11,
    torch.bfloat16: 2.0**-8,
}


def assert_close(name: str, computed: Tensor, true: Tensor, roundings: float) -> None:
    """Assert that the error is at most `roundings` roundings of the largest value.

    The true value is computed in float64 from the same (already rounded) arguments. The error is
    one rounding for a float32 result rounded once to float16 or bfloat16, about n roundings for
    one with n intermediate results of the arguments' dtype, and some ten for float32 sums of some
    hundred terms.
    """
    assert computed.shape == true.shape, name
    assert computed.isfinite().all(), f"{name}: not finite"
    largest = max(true.abs().max().item(), 1e-3) if true.numel() else 1.0
    error = (computed.double() - true).abs().max().item() if true.numel() else 0.0
    allowed = roundings * ROUNDING[computed.dtype] * largest
    assert error <= allowed, f"{name}: error {error:.3g}, allowed {allowed:.3g}"


def outputs_and_gradients(
    function: Callable[..., Tensor | tuple[Tensor, ...]],
    differentiated: Sequence[Tensor],
    upstream: Sequence[Tensor],
) -> list[Tensor]:
    """Return the function's outputs, then its gradients with respect to its arguments."""
    arguments = [tensor.detach().requires_grad_() for tensor in differentiated]
    outputs = as_tuple(function(*arguments))
    given = [gradient.to(out.dtype) for gradient, out in zip(upstream, outputs, strict=True)]
    gradients = torch.autograd.grad(outputs, arguments, given)
    return [*(out.detach() for out in outputs), *gradients]


def compare(
    function: Callable[..., Tensor | tuple[Tensor, ...]],
    formula: Callable[..., Tensor | tuple[Tensor, ...]],
    differentiated: Sequence[Tensor],
    upstream: Sequence[Tensor],
    roundings: float,
) -> None:
    """Assert that outputs and gradients of `function` match those of the float64 `formula`."""
    true = outputs_and_gradients(formula, [tensor.double() for tensor in differentiated], upstream)
    computed = outputs_and_gradients(function, differentiated, upstream)
    for index, (one, other) in enumerate(zip(computed, true, strict=True)):
        kind = "output" if index < len(upstream) else "gradient"
        assert_close(f"{kind} {index % max(len(upstream), 1)}", one, other, roundings)


def check_values(case: Case, sizes: Sizes, dtype: torch.dtype) -> None:
    """Assert that outputs and gradients match those of the case's formula."""
    problem = case.problem(sizes, dtype)
    places = [i for i, each in enumerate(problem.arguments) if each.requires_grad]

    def with_differentiated(function: Function) -> Function:
        def call(*differentiated: Tensor) -> Tensor | tuple[Tensor, ...]:
            arguments = list(problem.arguments)
            for place, tensor in zip(places, differentiated, strict=True):
                arguments[place] = tensor
            return function(*arguments)

        return call

    differentiated = [problem.arguments[place].detach() for place in places]
    with torch.no_grad():
        outputs = as_tuple(problem.formula(*problem.arguments))
    upstream = [
        torch.full(out.shape, 0.375) if case.same_upstream else torch.randn(out.shape)
        for out in outputs
    ]
    roundings = case.roundings(dtype)
    if differentiated:
        call, formula = with_differentiated(problem.call), with_differentiated(problem.formula)
        compare(call, formula, differentiated, upstream, roundings)
        return
    for index, (one, other) in enumerate(
        zip(as_tuple(problem.call(*problem.arguments)), outputs, strict=True)
    ):
        assert_close(f"output {index}", one, other, roundings)


def as_tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the outputs of a function as a tuple."""
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
