"""Checks of arguments that every operation shares."""

import torch
from torch import Tensor

TRITON_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def require(condition: bool, message: str) -> None:
    """Raise ValueError with `message` unless `condition` holds."""
    if not condition:
        raise ValueError(message)


def is_host_readable(tensor: Tensor) -> bool:
    """Whether the host may look at the tensor's values: only where it need not wait for them."""
    return tensor.device.type == "cpu"


def require_triton_dtype(operation: str, *tensors: Tensor) -> None:
    """Refuse element types that the Triton kernels do not compute in (float64 above all)."""
    for tensor in tensors:
        if tensor.dtype not in TRITON_DTYPES:
            raise ValueError(
                f"{operation}: the Triton kernel takes float32, float16 or bfloat16, not "
                f"{tensor.dtype}; MMBERT_KERNELS=reference takes any floating type"
            )


def computation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type to compute in: float32, or float64 for float64 arguments."""
    return torch.promote_types(dtype, torch.float32)
