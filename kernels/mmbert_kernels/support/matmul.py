"""Matrix products, on CPUs in float32 by oneDNN, which uses the full vector width of any x86 core.

PyTorch's float32 matmul on a CPU uses MKL, which leaves half of an AMD core idle: on a fifth
generation EPYC it reaches 100 GFLOP/s per core, oneDNN 150 to 230. PyTorch includes oneDNN too; its
linear (as used by torch.compile) accepts any two matrices once one is transposed.
"""

import torch
from torch import Tensor

# oneDNN generates code for every new shape, in about half a millisecond; products with fewer
# multiplications take less than that.
MIN_MULTIPLICATIONS = 1 << 22


def matmul(left: Tensor, right: Tensor) -> Tensor:
    """Compute left [M, K] @ right [K, N] outside of autograd, such as in autograd functions.

    Either may be a transposed view. The result is contiguous.
    """
    if not _by_onednn(left, right):
        return left @ right
    # The linear copies its first argument if it is not contiguous, but not its second.
    if left.is_contiguous() or left.shape[0] <= right.shape[1]:
        return _linear(left, right.t())
    return _linear(right.t(), left).t().contiguous()


def _by_onednn(left: Tensor, right: Tensor) -> bool:
    return (
        left.device.type == "cpu"
        and left.dtype == right.dtype == torch.float32
        and left.shape[0] * left.shape[1] * right.shape[1] >= MIN_MULTIPLICATIONS
        and torch.backends.mkldnn.is_available()
    )


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    """Compute x [M, K] @ weight [N, K].T."""
    with torch.no_grad():
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return out
