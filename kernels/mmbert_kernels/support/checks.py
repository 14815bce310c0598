"""Argument checks shared by all operations."""

import torch
from torch import Tensor

TRITON_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def require(condition: bool, message: str) -> None:
    """Raise ValueError with `message` unless `condition` holds."""
    if not condition:
        raise ValueError(message)


def is_host_readable(tensor: Tensor) -> bool:
    """Whether the host can read the tensor's values without synchronizing with a device."""
    return tensor.device.type == "cpu"


def require_triton_dtype(operation: str, *tensors: Tensor) -> None:
    """Raise ValueError for dtypes without Triton kernels (mainly float64)."""
    for tensor in tensors:
        if tensor.dtype not in TRITON_DTYPES:
            raise ValueError(
                f"{operation}: the Triton kernel supports float32, float16 or bfloat16, not "
                f"{tensor.dtype}; MMBERT_KERNELS=reference supports any floating-point dtype"
            )


def computation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of internal computation: float32, or float64 for float64 arguments."""
    return torch.promote_types(dtype, torch.float32)
