"""Matrix products; on a CPU in float32 by oneDNN, which uses the whole width of any x86 core.

PyTorch's float32 products on a CPU go to MKL, which leaves half of an AMD core idle: on an EPYC of
the fifth generation it does 100 GFLOP/s a core, oneDNN 150 to 230. oneDNN comes with PyTorch too;
its linear (the one that torch.compile uses) takes any two matrices once one is transposed.
"""

import torch
from torch import Tensor

# oneDNN prepares code for every new shape, about half a millisecond; smaller products than this
# many multiplications are done in less.
MIN_MULTIPLICATIONS = 1 << 22


def matmul(left: Tensor, right: Tensor) -> Tensor:
    """left [M, K] @ right [K, N], for use where no gradient is recorded (in autograd functions).

    Either may be a transposed view. The result is contiguous.
    """
    if not _by_onednn(left, right):
        return left @ right
    # the linear copies its first argument if that is not contiguous, but not its second
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
    """x [M, K] @ weight [N, K].T"""
    with torch.no_grad():
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return out
