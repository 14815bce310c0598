"""Attention on a GPU by flash-attn (3 or 2) or PyTorch's variable-length attention.

Their backward passes are nondeterministic unless torch.use_deterministic_algorithms is set.
"""

from collections.abc import Callable
from importlib import import_module

import torch
from torch import Tensor

from mmbert_kernels.support.checks import require

# With `causal`, a window is (window // 2, 0). flash-attn 2 and 3 set the right side to 0 with their
# own `causal`, and take a left side of -1 for no limit (flash_api.cpp, mha_varlen_fwd); PyTorch's
# function has no such argument, and takes (-1, 0) and (W, 0) for it.

# Queries, keys and values, [T, H, D] each.
Parts = tuple[Tensor, Tensor, Tensor]


def flash_attention_3(
    parts: Parts, cu_seqlens: Tensor, max_seqlen: int, window: int | None, *, causal: bool = False
) -> Tensor:
    """Compute `attention` by flash-attn 3, the version for Hopper GPUs.

    Not run yet: only the call's signature is tested, against hopper/flash_attn_interface.py of
    Dao-AILab/flash-attention. Its wheels (flash-attn-3 on PyTorch's index) provide the module
    flash_attn_interface.
    """
    _require_half("flash_attn_3", parts[0])
    attend: Callable[..., Tensor] = import_module("flash_attn_interface").flash_attn_varlen_func
    return attend(
        *parts,
        cu_seqlens,
        cu_seqlens,
        max_seqlen,
        max_seqlen,
        causal=causal,
        window_size=_sides(window, causal),
        deterministic=torch.are_deterministic_algorithms_enabled(),
    )


def flash_attention(
    qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, window: int | None, *, causal: bool = False
) -> Tensor:
    """Compute `attention` by flash-attn 2 on packed qkv, which also packs the gradient."""
    _require_half("flash_attn", qkv)
    attend: Callable[..., Tensor] = import_module("flash_attn").flash_attn_varlen_qkvpacked_func
    return attend(
        qkv,
        cu_seqlens,
        max_seqlen,
        dropout_p=0.0,
        softmax_scale=None,
        causal=causal,
        window_size=_sides(window, causal),
        deterministic=torch.are_deterministic_algorithms_enabled(),
    )


def varlen_attention(
    parts: Parts, cu_seqlens: Tensor, max_seqlen: int, window: int | None, *, causal: bool = False
) -> Tensor:
    """Compute `attention` by torch.nn.attention.varlen (PyTorch 2.11 and later, A100 and later)."""
    _require_half("varlen", parts[0])
    from torch.nn.attention.varlen import varlen_attn

    out = varlen_attn(
        *parts,
        cu_seqlens,
        cu_seqlens,
        max_seqlen,
        max_seqlen,
        window_size=_sides(window, causal),
    )
    if not isinstance(out, Tensor):  # only with return_aux
        raise TypeError("varlen_attn returned more than its output")
    return out


def _sides(window: int | None, causal: bool) -> tuple[int, int]:
    """Return the libraries' window_size: tokens to the left and right, -1 for no limit."""
    left = -1 if window is None else window // 2
    return left, 0 if causal else left


def _require_half(name: str, tensor: Tensor) -> None:
    require(
        tensor.dtype in (torch.bfloat16, torch.float16),
        f"attention by {name} supports bfloat16 or float16, not {tensor.dtype}; unset "
        "MMBERT_ATTENTION, or set it to 'plain', for other dtypes",
    )
