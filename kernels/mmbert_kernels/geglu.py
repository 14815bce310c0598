"""The gated GELU of the feed-forward layers: the first half activated, the second the gate.

    y = gelu(a) * b,   (a, b) = halves of x,   gelu(a) = a/2 * (1 + erf(a / sqrt 2))

Backward:

    da = dy * b * gelu'(a)       gelu'(a) = (1 + erf(a / sqrt 2)) / 2 + a * exp(-a^2/2) / sqrt(2 pi)
    db = dy * gelu(a)
"""

from torch import Tensor
from torch.nn import functional

from mmbert_kernels.checks import computation_dtype, require


def geglu(x: Tensor) -> Tensor:
    """Apply the gated GELU.

    Args:
        x: [T, 2f]; columns [0, f) are activated, columns [f, 2f) are the gate.

    Returns:
        [T, f], of x's dtype, rounded once from float32.

    Raises:
        ValueError: x is not of an even width.
    """
    require(x.ndim == 2 and x.shape[1] % 2 == 0, f"geglu: x must be [T, 2f]; got {list(x.shape)}")
    return geglu_reference(x)


def geglu_reference(x: Tensor) -> Tensor:
    """`geglu` in plain PyTorch."""
    activated, gate = x.to(computation_dtype(x.dtype)).chunk(2, dim=-1)
    return (functional.gelu(activated) * gate).to(x.dtype)
