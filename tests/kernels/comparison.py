"""How far a computed tensor may be from the true one, and why."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# Half the distance from 1 to the next number, for each type: the error of one rounding.
ROUNDING = {
    torch.float64: 2.0**-53,
    torch.float32: 2.0**-24,
    torch.float16: 2.0**-11,
    torch.bfloat16: 2.0**-8,
}


def assert_close(name: str, computed: Tensor, true: Tensor, roundings: float) -> None:
    """Assert that the error is at most `roundings` roundings of the largest value.

    The true value is float64 from the same (already rounded) arguments. A result computed in
    float32 and rounded once to float16 or bfloat16 errs by one rounding of its own value; one
    that goes through n intermediate results of the argument's type by about n; float32 sums of
    some hundred terms by some ten.
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
    """The function's outputs and then its gradients with respect to its arguments."""
    arguments = [tensor.detach().requires_grad_() for tensor in differentiated]
    outputs = function(*arguments)
    if isinstance(outputs, Tensor):
        outputs = (outputs,)
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
    """Assert that outputs and gradients of `function` are those of the float64 `formula`."""
    true = outputs_and_gradients(formula, [tensor.double() for tensor in differentiated], upstream)
    computed = outputs_and_gradients(function, differentiated, upstream)
    for index, (one, other) in enumerate(zip(computed, true, strict=True)):
        kind = "output" if index < len(upstream) else "gradient"
        assert_close(f"{kind} {index % max(len(upstream), 1)}", one, other, roundings)
