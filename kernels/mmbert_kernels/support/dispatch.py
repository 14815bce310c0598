"""Backend selection per operation and device type, logged and overridable.

The backend of attention also depends on the dtype. Environment variables, read at the first use of
an operation on a device type:

`MMBERT_KERNELS`    all operations except attention: `reference` or `triton`.
`MMBERT_ATTENTION`  attention: `flash_attn_3`, `flash_attn`, `varlen`, `plain`, `blocked` or
                    `reference`.
"""

import importlib
import importlib.util
import logging
import os
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch

logger = logging.getLogger("mmbert.kernels")

FUSED_OPERATIONS: list[str] = []
"""Operations with a Triton kernel and a reference, as declared by `fused_operation`."""
# Attention backends and their modules; None for backends that need only PyTorch.
ATTENTION_PACKAGES = {
    "flash_attn_3": "flash_attn_interface",
    "flash_attn": "flash_attn.flash_attn_interface",
    "varlen": None,
    "plain": None,
    "blocked": None,
    "reference": None,
}
ON_GPUS = ("flash_attn_3", "flash_attn", "varlen")
ANY_DEVICE = ("plain", "reference")
# Backends that are deterministic on a GPU under torch.use_deterministic_algorithms, according to
# their source code. The operators that PyTorch selects for `reference` may not be.
DETERMINISTIC = ("triton", "flash_attn_3", "flash_attn", "varlen", "plain")
HALF_TYPES = (torch.bfloat16, torch.float16)


Function = TypeVar("Function", bound=Callable[..., Any])


def fused_operation(name: str) -> Callable[[Function], Function]:
    """Register the decorated function as (part of) the fused operation `name`.

    `backend` then accepts this name, and `backends` lists it.
    """

    def declare(function: Function) -> Function:
        if name not in FUSED_OPERATIONS:
            FUSED_OPERATIONS.append(name)
        return function

    return declare


def triton_is_installed() -> bool:
    """Whether Triton is installed (the CPU build of PyTorch does not include it)."""
    return importlib.util.find_spec("triton") is not None


def triton_interprets() -> bool:
    """Whether Triton's interpreter is on, so that its kernels run on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def backend(operation: str, device_type: str, dtype: torch.dtype | None = None) -> str:
    """Return the backend of `operation` on devices of `device_type` ("cpu", "cuda").

    Logged at the first call and then cached for the life of the process.

    Args:
        operation: a fused operation, or "attention".
        device_type: "cpu", "cuda", …
        dtype: dtype of the tensors; attention only.

    Raises:
        ValueError: unknown operation, or an unknown or unsupported value of an environment
            variable.
    """
    if operation == "attention" and dtype is not None:
        chosen, reason = _attention_backend(device_type, dtype)
        operation = f"attention in {str(dtype).removeprefix('torch.')}"
    elif operation in FUSED_OPERATIONS:
        chosen, reason = _fused_backend(device_type)
    else:
        raise ValueError(f"unknown operation {operation!r} (attention requires a dtype)")
    logger.info("%s on %s: %s (%s)", operation, device_type, chosen, reason)
    return chosen


def backends(device_type: str | None = None) -> dict[str, str]:
    """Return each operation's backend on this machine.

    `device_type` defaults to "cuda" if there is a GPU, else "cpu". "attention" is the backend for
    bfloat16, "attention in float32" the one for float32.
    """
    if device_type is None:
        device_type = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = {name: backend(name, device_type) for name in FUSED_OPERATIONS}
    chosen["attention"] = backend("attention", device_type, torch.bfloat16)
    chosen["attention in float32"] = backend("attention", device_type, torch.float32)
    return chosen


def nondeterministic_operations(dtype: torch.dtype) -> dict[str, str]:
    """Return the operations, with their backends, that may be nondeterministic on a GPU even under
    torch.use_deterministic_algorithms."""
    chosen = {name: backend(name, "cuda") for name in FUSED_OPERATIONS}
    chosen["attention"] = backend("attention", "cuda", dtype)
    return {name: how for name, how in chosen.items() if how not in DETERMINISTIC}


def _fused_backend(device_type: str) -> tuple[str, str]:
    forced = os.environ.get("MMBERT_KERNELS")
    if forced not in (None, "", "reference", "triton"):
        raise ValueError(f"MMBERT_KERNELS={forced} is unknown; choose 'reference' or 'triton'")
    if forced == "reference":
        return "reference", "forced by MMBERT_KERNELS"
    if forced == "triton":
        if not triton_is_installed():
            raise ValueError("MMBERT_KERNELS=triton, but Triton is not installed")
        if device_type != "cuda" and not triton_interprets():
            raise ValueError(
                f"MMBERT_KERNELS=triton, but Triton has no {device_type} backend; "
                "TRITON_INTERPRET=1 runs its kernels on CPU, very slowly, for tests"
            )
        return "triton", "forced by MMBERT_KERNELS"
    if device_type != "cuda":
        return "reference", "the device is not a GPU"
    if not triton_is_installed():
        logger.warning("Triton is not installed: falling back to plain PyTorch on the GPU")
        return "reference", "Triton is not installed"
    return "triton", "the device is a GPU"


def _attention_backend(device_type: str, dtype: torch.dtype) -> tuple[str, str]:
    forced = os.environ.get("MMBERT_ATTENTION")
    if forced not in (None, "", *ATTENTION_PACKAGES):
        names = ", ".join(ATTENTION_PACKAGES)
        raise ValueError(f"MMBERT_ATTENTION={forced} is unknown; choose one of {names}")
    if forced:
        if forced not in ANY_DEVICE and (forced in ON_GPUS) != (device_type == "cuda"):
            raise ValueError(f"MMBERT_ATTENTION={forced} does not run on {device_type}")
        package = ATTENTION_PACKAGES[forced]
        if package is not None and not is_installed(package):
            raise ValueError(f"MMBERT_ATTENTION={forced}, but {package} is not installed")
        return forced, "forced by MMBERT_ATTENTION"
    if device_type == "cpu":
        return "blocked", "the device is a CPU"
    if device_type != "cuda":
        return "reference", f"no faster backend for {device_type}"
    if dtype not in HALF_TYPES:
        return "plain", "no GPU library supports this dtype"
    if is_hopper() and is_installed("flash_attn_interface"):
        return "flash_attn_3", "a Hopper GPU, and flash-attn 3 is installed"
    if is_installed("flash_attn.flash_attn_interface"):
        return "flash_attn", "flash-attn is installed"
    return "varlen", "flash-attn is not installed"


def is_installed(module: str) -> bool:
    """Whether `module` can be imported; logs a warning if it is installed but fails to import.

    `find_spec` is not sufficient: flash-attn 4 alone installs a `flash_attn` package without
    version 2's module, and a wheel for another CUDA or torch fails to import because of a missing
    library or symbol.
    """
    try:
        if importlib.util.find_spec(module) is None:
            return False
        importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:
        # If the missing module is neither `module` nor a parent package, it is a dependency.
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is None or not f"{module}.".startswith(f"{missing}."):
            logger.warning("%s is installed but cannot be imported: %s", module, error)
        return False
    return True


def is_hopper() -> bool:
    """Whether the GPU is a Hopper, which flash-attn 3 requires."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9


def computes_in_bfloat16(device: torch.device | int) -> bool:
    """Whether the GPU has bfloat16 instructions (A100, 2020, and later)."""
    return torch.cuda.get_device_capability(device)[0] >= 8
