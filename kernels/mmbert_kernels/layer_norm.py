"""Layer normalisation without bias, alone and fused with the addition of the residual.

For each row x of width d:

    mean = sum(x) / d        variance = sum((x - mean)^2) / d
    y = (x - mean) / sqrt(variance + eps) * weight

Backward, with n = (x - mean) / sqrt(variance + eps) and g = dy * weight:

    dx = (g - mean(g) - n * mean(g * n)) / sqrt(variance + eps)
    dweight = sum over the rows of dy * n

`add_layer_norm` first takes s = x + residual, rounded to the residual's type because that is
what the next layer reads, and gives both s and its norm.
"""

from torch import Tensor
from torch.nn import functional

from mmbert_kernels.checks import computation_dtype, require


def layer_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise the rows of `x`.

    Args:
        x: [T, d].
        weight: [d].
        eps: added to the variance.

    Returns:
        [T, d], of x's dtype; statistics are float32.

    Raises:
        ValueError: shapes do not fit.
    """
    _check(x, weight)
    return layer_norm_reference(x, weight, eps)


def add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Add the residual and normalise the rows of the sum.

    Args:
        x: [T, d], the branch's output.
        residual: [T, d].
        weight: [d].
        eps: added to the variance.

    Returns:
        (normed [T, d], sum [T, d]), both of the residual's dtype; the norm is that of the
        rounded sum.

    Raises:
        ValueError: shapes do not fit.
    """
    _check(x, weight)
    require(x.shape == residual.shape, "add_layer_norm: x and residual differ in shape")
    return add_layer_norm_reference(x, residual, weight, eps)


def layer_norm_reference(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`layer_norm` in plain PyTorch."""
    compute = computation_dtype(x.dtype)
    if x.dtype == weight.dtype:  # PyTorch's own keeps its statistics in float32
        return functional.layer_norm(x, weight.shape, weight, None, eps)
    return functional.layer_norm(x.to(compute), weight.shape, weight.to(compute), None, eps).to(
        x.dtype
    )


def add_layer_norm_reference(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """`add_layer_norm` in plain PyTorch."""
    total = (x + residual).to(residual.dtype)
    return layer_norm_reference(total, weight, eps), total


def _check(x: Tensor, weight: Tensor) -> None:
    require(
        x.ndim == 2 and weight.shape == x.shape[1:],
        f"layer_norm: x must be [T, d] and weight [d]; got {list(x.shape)} and "
        f"{list(weight.shape)}",
    )
