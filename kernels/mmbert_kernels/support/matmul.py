"""Matrix products; in float32 on CPUs with 512-bit vectors by oneDNN, which uses their full width.

PyTorch's float32 matmul on a CPU uses MKL, which leaves half of such an AMD core idle: on a fifth
generation EPYC it reaches 100 GFLOP/s per core, oneDNN 150 to 230. With 256-bit vectors alone MKL
is ahead, 90 GFLOP/s to oneDNN's 50 to 80. PyTorch also includes oneDNN, whose linear (used by
torch.compile) computes any product with one operand transposed.
"""

from functools import lru_cache

import torch
from torch import Tensor

# Minimum size for oneDNN, which takes about half a millisecond to generate code for each new shape.
# Smaller products take less than that.
MIN_MULTIPLICATIONS = 1 << 22


def matmul(left: Tensor, right: Tensor) -> Tensor:
    """Compute left [M, K] @ right [K, N] without autograd, for use in autograd functions.

    Either operand may be a transposed view. The result is contiguous.
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
        and onednn_is_faster()
    )


def onednn_is_faster() -> bool:
    """Whether oneDNN's float32 products are ahead of MKL's: with 512-bit vectors."""
    capability = torch.backends.cpu.get_cpu_capability()
    return capability == "AVX512" and torch.backends.mkldnn.is_available()


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    """Compute x [M, K] @ weight [N, K].T."""
    with torch.no_grad():
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return out


def accumulate_matmul(total: Tensor, left: Tensor, right: Tensor, *, kept: int) -> None:
    """Compute total = kept * total + left @ right in place; total may be wider than the factors.

    With kept = 0 the previous content of total is not read.
    """
    if total.dtype == left.dtype:
        total.addmm_(left, right, beta=kept)
    elif left.device.type == "cuda" and _takes_float32_addend(left.device, left.dtype):
        torch.addmm(total, left, right, beta=kept, out_dtype=total.dtype, out=total)
    else:
        if left.device.type == "cuda":
            product = torch.mm(left, right, out_dtype=total.dtype)
        else:  # Triton's interpreter: no matmul of mixed dtypes on a CPU
            product = left @ right
        if kept:
            total.add_(product)
        else:
            total.copy_(product)


@lru_cache(maxsize=8)
def _takes_float32_addend(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `torch.addmm` accepts a float32 addend with factors of `dtype`.

    Early releases with `out_dtype` require the addend to have the factors' dtype.
    """
    factor, total = torch.zeros(8, 8, dtype=dtype, device=device), torch.zeros(8, 8, device=device)
    try:
        torch.addmm(total, factor, factor, out_dtype=torch.float32, out=total)
    except RuntimeError:
        return False
    return True
