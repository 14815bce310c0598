"""Device and dtypes of the test_triton*.py files.

`make test-gpu` runs these files on a GPU, also in bfloat16. `make test` runs them in Triton's
interpreter, in a separate process (test_triton_interpreter.py), in float32 and float16: its
bfloat16 is wrong.
"""

import pytest
import torch

from mmbert_kernels.support.dispatch import triton_interprets

INTERPRETED = triton_interprets()
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
DTYPES = (torch.float32, torch.float16) + (() if INTERPRETED else (torch.bfloat16,))
USE_TRITON = pytest.mark.usefixtures("triton_on_poisoned_memory")


def randn(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return normally distributed values on the device."""
    return torch.randn(*shape, device=DEVICE).to(dtype)
