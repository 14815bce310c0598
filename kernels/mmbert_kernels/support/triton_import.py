"""Triton, or stand-ins where it is not installed, so that every file defines its kernels anywhere.

The CPU build of PyTorch comes without Triton. There `triton.jit` leaves functions as they are and
dispatch.py never chooses them.
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


# Whether a product and a sum become one instruction with one rounding: faster, and what every
# kernel was compiled and compared with so far. Triton's own default is on in 3.6 to 3.9, off from
# 3.10 on, and another one if the environment says so.
FP_FUSION = True


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    """Start a Triton kernel over `grid`: the one way in which kernels are launched here."""
    kernel[grid](*arguments, enable_fp_fusion=FP_FUSION, **options)


def next_power_of_2(number: int) -> int:
    """The smallest power of two that is at least `number` (at least 1)."""
    return 1 << max(number - 1, 0).bit_length()


def blocks(length: int, block: int) -> int:
    """How many blocks cover `length`."""
    return -(-length // block)


def contiguous_rows(tensor: Tensor) -> Tensor:
    """The tensor, copied unless neighbouring elements of its last dimension are neighbours."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] <= 1 else tensor.contiguous()


@cache
def persistent_programs(device: torch.device) -> int:
    """How many programs to start where each walks over many rows: some per multiprocessor."""
    if device.type != "cuda":
        return 3  # the interpreter: few, so that each has several blocks to walk over
    return 4 * torch.cuda.get_device_properties(device).multi_processor_count
