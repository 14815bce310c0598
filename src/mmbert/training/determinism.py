"""Device checks and `deterministic: true`, which makes runs bitwise reproducible.

All checks run before the first step, so that none fails during training.
"""

import os
from collections.abc import MutableMapping
from typing import Any

import torch

from mmbert.errors import DeviceError
from mmbert.recipe import Recipe
from mmbert_kernels import computes_in_bfloat16, nondeterministic_operations
from mmbert_kernels.support.dispatch import FUSED_OPERATIONS, HALF_TYPES, ON_GPUS, backend

# cuBLAS documents a fixed summation order only for these workspaces.
CUBLAS_WORKSPACES = (":4096:8", ":16:8")
# NVLink switches (NVLS) add in order of arrival; torch's deterministic mode excludes them too.
NCCL_ALGORITHMS = "^NVLS,NVLSTree"
NVLS_ALGORITHMS = {"NVLS", "NVLSTREE"}
# Largest head size of flash-attn 3's deterministic backward pass (its hopper/flash_api.cpp).
FLASH_3_HEAD_SIZE = 192


def set_environment(recipe: Recipe, environment: MutableMapping[str, str] = os.environ) -> None:
    """Configure cuBLAS and NCCL for a deterministic run, before their first use.

    Raises:
        DeviceError: the environment requests a nondeterministic algorithm.
    """
    if not recipe.deterministic:
        return
    workspace = environment.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACES[0])
    if workspace not in CUBLAS_WORKSPACES:
        raise DeviceError(
            f"CUBLAS_WORKSPACE_CONFIG is {workspace!r}, with which cuBLAS is not deterministic, "
            "but the recipe has deterministic: true",
            remedy=f"unset it, or set it to {' or '.join(CUBLAS_WORKSPACES)}",
        )
    algorithms = environment.get("NCCL_ALGO") or NCCL_ALGORITHMS
    environment["NCCL_ALGO"] = algorithms
    named = {name.strip().upper() for name in algorithms.removeprefix("^").split(",")}
    if not named >= NVLS_ALGORITHMS if algorithms.startswith("^") else NVLS_ALGORITHMS & named:
        raise DeviceError(
            f"NCCL_ALGO is {algorithms!r}, which allows NVLink SHARP, whose summation order "
            "varies, but the recipe has deterministic: true",
            remedy=f"unset NCCL_ALGO, or set it to Ring, Tree or {NCCL_ALGORITHMS}",
        )


def set_up_device(recipe: Recipe, device: torch.device) -> None:
    """Check that the device supports the recipe, and set torch's deterministic mode.

    Raises:
        DeviceError: an environment variable requests an implementation that cannot run here, the
            GPU does not support bfloat16, or an implementation is not deterministic.
    """
    dtype = torch.bfloat16 if recipe.precision == "bfloat16" else torch.float32
    _check_implementations(device, dtype)
    if device.type != "cuda":
        return
    if recipe.precision == "bfloat16" and not computes_in_bfloat16(device):
        raise DeviceError(
            f"{torch.cuda.get_device_name(device)} does not support precision: bfloat16",
            remedy="use an A100 or later GPU, or train with precision=float32 (slowly)",
        )
    if recipe.deterministic:
        _check_deterministic(recipe, dtype)
    torch.use_deterministic_algorithms(recipe.deterministic)
    # Filling uninitialized memory takes time and would hide erroneous reads of it.
    settings: Any = torch.utils.deterministic
    settings.fill_uninitialized_memory = False


def repeats_to_the_bit(recipe: Recipe, device: torch.device) -> bool:
    """Whether the same step on the same rank gives the same bits each time."""
    return recipe.deterministic or device.type == "cpu"


def _check_implementations(device: torch.device, dtype: torch.dtype) -> None:
    """Resolve all backends now, so that unusable MMBERT_KERNELS or MMBERT_ATTENTION fail here."""
    try:
        for operation in FUSED_OPERATIONS:
            backend(operation, device.type)
        attention = backend("attention", device.type, dtype)
    except ValueError as error:
        remedy = "unset MMBERT_KERNELS and MMBERT_ATTENTION, or set them to what runs here"
        raise DeviceError(str(error), remedy=remedy) from error
    if attention in ON_GPUS and dtype not in HALF_TYPES:
        raise DeviceError(
            f"MMBERT_ATTENTION is {attention!r}, which supports only bfloat16 and float16, but the "
            "recipe has precision: float32",
            remedy="unset MMBERT_ATTENTION, or train with precision=bfloat16",
        )


def _check_deterministic(recipe: Recipe, dtype: torch.dtype) -> None:
    unable = nondeterministic_operations(dtype)
    if unable:
        named = ", ".join(f"{operation} by {how}" for operation, how in unable.items())
        raise DeviceError(
            f"not deterministic: {named}, but the recipe has deterministic: true",
            remedy="unset MMBERT_KERNELS and MMBERT_ATTENTION and install Triton (`mmbert doctor` "
            "lists what runs here), or set deterministic to false",
        )
    head_size = recipe.model.hidden_size // recipe.model.num_attention_heads
    if backend("attention", "cuda", dtype) == "flash_attn_3" and (head_size > FLASH_3_HEAD_SIZE):
        raise DeviceError(
            f"flash_attn_3 is not deterministic with a head size of {head_size}, but the recipe "
            "has deterministic: true",
            remedy="set MMBERT_ATTENTION=varlen, or deterministic to false",
        )
