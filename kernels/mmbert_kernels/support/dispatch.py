"""Which implementation of each operation runs on a device: chosen once, forcible, logged.

Attention's depends on the tensors' type too. Environment variables, read when an operation is
first used on a kind of device:

`MMBERT_KERNELS`    `reference` or `triton`: every operation but attention.
`MMBERT_ATTENTION`  attention: `flash_attn_3`, `flash_attn`, `varlen`, `plain`, `blocked` or
                    `reference`.
"""

import importlib
import importlib.util
import logging
import os
from functools import cache

import torch

logger = logging.getLogger("mmbert.kernels")

FUSED_OPERATIONS = (
    "layer_norm",
    "add_layer_norm",
    "embedding_layer_norm",
    "geglu",
    "rotary",
    "linear_cross_entropy",
    "gather_rows",
    "stable_adamw",
)
# Those of attention with the packages that they need, None for PyTorch alone.
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
# Those that add in the same order in every run on a GPU once torch is to use deterministic
# algorithms: by their sources. What PyTorch picks for `reference` is not known to.
DETERMINISTIC = ("triton", "flash_attn_3", "flash_attn", "varlen", "plain")
HALF_TYPES = (torch.bfloat16, torch.float16)


def triton_is_installed() -> bool:
    """Whether Triton can be imported (the CPU build of PyTorch comes without it)."""
    return importlib.util.find_spec("triton") is not None


def triton_interprets() -> bool:
    """Whether Triton's interpreter is switched on, so that its kernels run on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def backend(operation: str, device_type: str, dtype: torch.dtype | None = None) -> str:
    """The implementation of `operation` on devices of `device_type` ("cpu", "cuda").

    `dtype` is that of the tensors, and attention's alone. The answer is kept for the life of the
    process, and logged when it is first made.

    Raises:
        ValueError: an environment variable names something unknown or impossible here.
    """
    if operation == "attention" and dtype is not None:
        chosen, reason = _attention_backend(device_type, dtype)
        operation = f"attention in {str(dtype).removeprefix('torch.')}"
    elif operation in FUSED_OPERATIONS:
        chosen, reason = _fused_backend(device_type)
    else:
        raise ValueError(f"there is no operation named {operation!r} (attention has a dtype)")
    logger.info("%s on %s: %s (%s)", operation, device_type, chosen, reason)
    return chosen


def backends(device_type: str | None = None) -> dict[str, str]:
    """The implementation of every operation on this machine's device, by operation.

    `device_type` defaults to "cuda" where a GPU is present and to "cpu" elsewhere. "attention" is
    that of bfloat16, "attention in float32" the other.
    """
    if device_type is None:
        device_type = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = {name: backend(name, device_type) for name in FUSED_OPERATIONS}
    chosen["attention"] = backend("attention", device_type, torch.bfloat16)
    chosen["attention in float32"] = backend("attention", device_type, torch.float32)
    return chosen


def nondeterministic_operations(dtype: torch.dtype) -> dict[str, str]:
    """Operations, with their implementations, whose results on a GPU may differ from run to run
    even if torch is to use deterministic algorithms; empty where all are repeatable."""
    chosen = {name: backend(name, "cuda") for name in FUSED_OPERATIONS}
    chosen["attention"] = backend("attention", "cuda", dtype)
    return {name: how for name, how in chosen.items() if how not in DETERMINISTIC}


def _fused_backend(device_type: str) -> tuple[str, str]:
    forced = os.environ.get("MMBERT_KERNELS")
    if forced not in (None, "", "reference", "triton"):
        raise ValueError(f"MMBERT_KERNELS is {forced!r}; it may be 'reference' or 'triton'")
    if forced == "reference":
        return "reference", "forced by MMBERT_KERNELS"
    if forced == "triton":
        if not triton_is_installed():
            raise ValueError("MMBERT_KERNELS is 'triton', but Triton is not installed")
        if device_type != "cuda" and not triton_interprets():
            raise ValueError(
                f"MMBERT_KERNELS is 'triton', but Triton has no {device_type} backend; "
                "TRITON_INTERPRET=1 runs its kernels on CPU, very slowly, for tests"
            )
        return "triton", "forced by MMBERT_KERNELS"
    if device_type != "cuda":
        return "reference", "the device is no GPU"
    if not triton_is_installed():
        logger.warning("Triton is not installed: the GPU runs plain PyTorch operations")
        return "reference", "Triton is not installed"
    return "triton", "the device is a GPU"


def _attention_backend(device_type: str, dtype: torch.dtype) -> tuple[str, str]:
    forced = os.environ.get("MMBERT_ATTENTION")
    if forced not in (None, "", *ATTENTION_PACKAGES):
        names = ", ".join(ATTENTION_PACKAGES)
        raise ValueError(f"MMBERT_ATTENTION is {forced!r}; it may be one of {names}")
    if forced:
        if forced not in ANY_DEVICE and (forced in ON_GPUS) != (device_type == "cuda"):
            raise ValueError(f"MMBERT_ATTENTION={forced} does not run on {device_type}")
        package = ATTENTION_PACKAGES[forced]
        if package is not None and not is_installed(package):
            raise ValueError(f"MMBERT_ATTENTION is {forced!r}, but {package} is not installed")
        return forced, "forced by MMBERT_ATTENTION"
    if device_type == "cpu":
        return "blocked", "the device is a CPU"
    if device_type != "cuda":
        return "reference", f"nothing faster is known for {device_type}"
    if dtype not in HALF_TYPES:
        return "plain", "no library for GPUs takes this type"
    if is_hopper() and is_installed("flash_attn_interface"):
        return "flash_attn_3", "a Hopper GPU, and flash-attn 3 is installed"
    if is_installed("flash_attn.flash_attn_interface"):
        return "flash_attn", "flash-attn is installed"
    return "varlen", "PyTorch's own; flash-attn is not installed"


def is_installed(module: str) -> bool:
    """Whether `module` is here and can be imported; what is here but cannot be is warned of.

    flash-attn 4 alone has a `flash_attn` without version 2's. A wheel for another CUDA or torch
    lacks a library or a symbol, which shows when it is imported.
    """
    try:
        if importlib.util.find_spec(module) is None:
            return False
        importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:
        # the module or a package that it lies in is not here; else it is, without what it needs
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is None or not f"{module}.".startswith(f"{missing}."):
            logger.warning("%s is installed but cannot be imported: %s", module, error)
        return False
    return True


def is_hopper() -> bool:
    """Whether the GPU is of the one kind that flash-attn 3 is made for."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9


def computes_in_bfloat16(device: torch.device | int) -> bool:
    """Whether the GPU has instructions for bfloat16: those from the A100 (2020) on have."""
    return torch.cuda.get_device_capability(device)[0] >= 8
