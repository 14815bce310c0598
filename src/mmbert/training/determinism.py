"""What a GPU must be able to do for a recipe, and `deterministic: true`: equal runs to the bit.

Everything is decided before the first step, so that nothing raises in the middle of one.
"""

import os
from collections.abc import MutableMapping
from typing import Any

import torch

from mmbert.errors import UserError
from mmbert.recipe import Recipe
from mmbert_kernels import computes_in_bfloat16, nondeterministic_operations
from mmbert_kernels.support.dispatch import FUSED_OPERATIONS, HALF_TYPES, ON_GPUS, backend

# cuBLAS adds in the same order in every run with these workspaces alone, by its documentation.
CUBLAS_WORKSPACES = (":4096:8", ":16:8")
# NVLink's switches add in the order in which the parts arrive; torch excludes NVLS too.
NCCL_ALGORITHMS = "^NVLS,NVLSTree"
NVLS_ALGORITHMS = {"NVLS", "NVLSTREE"}
# flash-attn 3 refuses a deterministic backward pass above this (its hopper/flash_api.cpp).
FLASH_3_HEAD_SIZE = 192


def set_environment(recipe: Recipe, environment: MutableMapping[str, str] = os.environ) -> None:
    """Tell cuBLAS and NCCL what a deterministic run needs, before either is first used.

    Raises:
        UserError: the environment asks for something else already.
    """
    if not recipe.deterministic:
        return
    workspace = environment.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACES[0])
    if workspace not in CUBLAS_WORKSPACES:
        raise UserError(
            f"deterministic: true, but CUBLAS_WORKSPACE_CONFIG is {workspace!r}, with which cuBLAS "
            "may add in another order in every run",
            remedy=f"unset it, or set it to {' or '.join(CUBLAS_WORKSPACES)}",
        )
    algorithms = environment.get("NCCL_ALGO") or NCCL_ALGORITHMS
    environment["NCCL_ALGO"] = algorithms
    named = {name.strip().upper() for name in algorithms.removeprefix("^").split(",")}
    if not named >= NVLS_ALGORITHMS if algorithms.startswith("^") else NVLS_ALGORITHMS & named:
        raise UserError(
            f"deterministic: true, but NCCL_ALGO is {algorithms!r}: NVLink's switches add in "
            "another order in every run",
            remedy=f"unset NCCL_ALGO, or set it to Ring, Tree or {NCCL_ALGORITHMS}",
        )


def set_up_device(recipe: Recipe, device: torch.device) -> None:
    """Check that a GPU can do what the recipe asks for; let torch be deterministic if it is to be.

    Raises:
        UserError: an environment variable asks for an implementation that cannot run here, the GPU
            is too old for bfloat16, or an implementation, which is named, cannot be deterministic.
    """
    dtype = torch.bfloat16 if recipe.precision == "bfloat16" else torch.float32
    _check_implementations(device, dtype)
    if device.type != "cuda":
        return
    if recipe.precision == "bfloat16" and not computes_in_bfloat16(device):
        raise UserError(
            f"precision: bfloat16, but {torch.cuda.get_device_name(device)} is too old for it",
            remedy="take an A100 or a later GPU, or train with precision=float32 (slowly)",
        )
    if recipe.deterministic:
        _check_deterministic(recipe, dtype)
    torch.use_deterministic_algorithms(recipe.deterministic)
    # Whoever reads what was never written has an error that this would hide, at the cost of time.
    settings: Any = torch.utils.deterministic
    settings.fill_uninitialized_memory = False


def _check_implementations(device: torch.device, dtype: torch.dtype) -> None:
    """Make every choice now, so that what MMBERT_KERNELS and MMBERT_ATTENTION ask for is refused
    here if it cannot be."""
    try:
        for operation in FUSED_OPERATIONS:
            backend(operation, device.type)
        attention = backend("attention", device.type, dtype)
    except ValueError as error:
        remedy = "unset MMBERT_KERNELS and MMBERT_ATTENTION, or set them to what runs here"
        raise UserError(str(error), remedy=remedy) from error
    if attention in ON_GPUS and dtype not in HALF_TYPES:
        raise UserError(
            f"precision: float32, but MMBERT_ATTENTION is {attention!r}, which takes bfloat16 and "
            "float16 alone",
            remedy="unset MMBERT_ATTENTION, or train with precision=bfloat16",
        )


def _check_deterministic(recipe: Recipe, dtype: torch.dtype) -> None:
    unable = nondeterministic_operations(dtype)
    if unable:
        named = ", ".join(f"{operation} by {how}" for operation, how in unable.items())
        raise UserError(
            f"deterministic: true, but these may differ from run to run: {named}",
            remedy="unset MMBERT_KERNELS and MMBERT_ATTENTION and install Triton (`mmbert doctor` "
            "says what runs here), or set deterministic to false",
        )
    head_size = recipe.model.hidden_size // recipe.model.num_attention_heads
    if backend("attention", "cuda", dtype) == "flash_attn_3" and (head_size > FLASH_3_HEAD_SIZE):
        raise UserError(
            f"deterministic: true, but flash_attn_3 is not deterministic with heads of {head_size}",
            remedy="set MMBERT_ATTENTION=varlen, or deterministic to false",
        )
