"""Triton, or stubs where it is not installed, so that modules with kernels import everywhere.

The CPU build of PyTorch does not include Triton. The stub of `triton.jit` returns functions
unchanged, and dispatch.py never chooses them.
"""

from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

triton: Any
tl: Any
try:
    import triton as _triton
    import triton.language as _language

    triton, tl = _triton, _language
except ImportError:

    def _jit(function: Any = None, **_options: Any) -> Any:
        return function if function is not None else _jit

    triton = SimpleNamespace(jit=_jit)
    tl = SimpleNamespace(constexpr=lambda value: value)


# Fused multiply-add, with a single rounding: faster, and the setting of all comparisons of the
# kernels so far. Set explicitly, because Triton's default is on in 3.6 to 3.9, off from 3.10, and
# can be changed by the environment.
FP_FUSION = True


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    """Launch a Triton kernel over `grid`. All kernels of the package are launched here."""
    kernel[grid](*arguments, enable_fp_fusion=FP_FUSION, **options)


def next_power_of_2(number: int) -> int:
    """Return the smallest power of two that is at least `number`, and at least 1."""
    return 1 << max(number - 1, 0).bit_length()


def blocks(length: int, block: int) -> int:
    """Return the number of blocks that cover `length`."""
    return -(-length // block)


def contiguous_rows(tensor: Tensor) -> Tensor:
    """Return the tensor if its last dimension has stride 1, else a contiguous copy."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] <= 1 else tensor.contiguous()


@cache
def persistent_programs(device: torch.device) -> int:
    """Return the number of persistent programs, each of which iterates over many rows."""
    if device.type != "cuda":
        return 3  # interpreter: few, so that each iterates over several blocks
    return 4 * torch.cuda.get_device_properties(device).multi_processor_count
