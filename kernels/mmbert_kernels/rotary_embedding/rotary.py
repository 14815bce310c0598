"""Rotary position embedding of packed queries and keys; positions restart at every document.

For a head of size D, position p and i in [0, D/2), with the angle p * base^(-2i/D):

    first'[i]  = first[i] * cos - second[i] * sin        (first, second: the halves of the head)
    second'[i] = second[i] * cos + first[i] * sin

Angles, cosines and sines are float32 (tables.py). Values are not rotated. The backward pass
rotates by the opposite angle. Source: Su et al. 2021 (RoFormer), in the half-split form of GPT-NeoX
and ModernBERT.

The Triton kernel (triton_kernels.py) works in place: on the argument in the forward pass, on the
gradient in the backward pass. It neither touches the values nor allocates memory. Attention
backends that take queries, keys and values as three tensors also return three gradients, which
`rotary_unpacked` rotates and packs for the preceding linear in one pass.
"""

from typing import Any

import torch
from torch import Tensor

from mmbert_kernels.rotary_embedding.tables import position_tables
from mmbert_kernels.rotary_embedding.triton_kernels import rotate_in_place, rotate_packed
from mmbert_kernels.support.checks import computation_dtype, require, require_triton_dtype
from mmbert_kernels.support.dispatch import backend, fused_operation
from mmbert_kernels.support.sequences import check_cu_seqlens, token_positions


@fused_operation("rotary")
def rotary(qkv: Tensor, cu_seqlens: Tensor, base: float) -> Tensor:
    """Apply RoPE to the queries and keys of `qkv`, possibly in place. Do not use `qkv` afterwards.

    Args:
        qkv: [T, 3, H, D], D even: queries, keys and values. Its memory may be reused for the
            result; a leaf that requires a gradient is copied first.
        cu_seqlens: int32 [documents + 1]: 0 and the end of each document, up to T.
        base: the rotary base (theta).

    Returns:
        [T, 3, H, D] with rotated queries and keys and unchanged values. Its gradient may be
        modified in place too.

    Raises:
        ValueError: shapes do not match.
    """
    cu_seqlens = _checked(qkv, cu_seqlens, base)
    if backend("rotary", qkv.device.type) == "reference":
        return rotary_reference(qkv, cu_seqlens, base)
    rotated: Tensor = _Rotary.apply(_inplace_input(qkv), cu_seqlens, base)
    return rotated


@fused_operation("rotary")
def rotary_unpacked(qkv: Tensor, cu_seqlens: Tensor, base: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the queries, keys and values of `rotary`'s result as three views [T, H, D].

    Arguments and errors: see `rotary`. The gradients may have any layout and are read once.
    """
    cu_seqlens = _checked(qkv, cu_seqlens, base)
    if backend("rotary", qkv.device.type) == "reference":
        query, key, value = rotary_reference(qkv, cu_seqlens, base).unbind(1)
    else:
        query, key, value = _RotaryUnpacked.apply(_inplace_input(qkv), cu_seqlens, base)
    return query, key, value


def _checked(qkv: Tensor, cu_seqlens: Tensor, base: float) -> Tensor:
    """Check the arguments and return cu_seqlens, contiguous."""
    require(
        qkv.ndim == 4 and qkv.shape[1] == 3 and qkv.shape[3] % 2 == 0,
        f"rotary: qkv must be [T, 3, H, D] with an even D; got {list(qkv.shape)}",
    )
    check_cu_seqlens(cu_seqlens)
    require(base > 0, f"rotary: base must be positive; got {base}")
    return cu_seqlens.contiguous()


def _inplace_input(qkv: Tensor) -> Tensor:
    """Return qkv, or a copy of it if it is a leaf that requires a gradient."""
    require_triton_dtype("rotary", qkv)
    return qkv.clone() if qkv.is_leaf and qkv.requires_grad else qkv


def rotary_reference(qkv: Tensor, cu_seqlens: Tensor, base: float) -> Tensor:
    """Compute `rotary` in plain PyTorch."""
    rotated: Tensor = _RotaryReference.apply(qkv, cu_seqlens, base)
    return rotated


class _RotaryReference(torch.autograd.Function):
    """Explicit autograd function, to read and write each element only a few times."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cu_seqlens: Tensor, base: float) -> Tensor:
        tables = rotation_tables(cu_seqlens, qkv.shape[0], qkv.shape[3], base)
        ctx.save_for_backward(*tables)
        return _rotated(qkv, *tables)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cosine, sine = ctx.saved_tensors
        return _rotated(grad, cosine, -sine), None, None


def _rotated(qkv: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Return qkv with queries and keys rotated, by cosines and sines [T, D / 2]."""
    compute = computation_dtype(qkv.dtype)
    cosine = cosine.repeat(1, 2)[:, None, None, :].to(compute)
    sine = sine[:, None, None, :].to(compute)
    out = torch.empty(qkv.shape, dtype=compute, device=qkv.device)
    source = qkv[:, :2].to(compute)
    first, second = source.chunk(2, dim=-1)
    out_first, out_second = torch.mul(source, cosine, out=out[:, :2]).chunk(2, dim=-1)
    out_first.addcmul_(second, sine, value=-1)
    out_second.addcmul_(first, sine)
    out[:, 2] = qkv[:, 2]
    return out.to(qkv.dtype)


def rotation_tables(
    cu_seqlens: Tensor, tokens: int, head_size: int, base: float
) -> tuple[Tensor, Tensor]:
    """Return (cosine, sine) of every token, float32 [tokens, head_size / 2] each."""
    tables = position_tables(tokens, head_size, base, cu_seqlens.device)
    positions = token_positions(cu_seqlens, tokens)
    cosine, sine = tables[positions].unbind(1)
    return cosine, sine


class _Rotary(torch.autograd.Function):
    """Rotates in place, hidden from autograd.

    The argument is a view, whose gradient autograd would copy if it tracked the modification.
    Nothing else references the argument or the gradient.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cu_seqlens: Tensor, base: float) -> Tensor:
        ctx.save_for_backward(cu_seqlens)
        ctx.base = base
        return rotate_in_place(qkv, cu_seqlens, base, 1.0).detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (cu_seqlens,) = ctx.saved_tensors
        return rotate_in_place(grad, cu_seqlens, ctx.base, -1.0), None, None


class _RotaryUnpacked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, cu_seqlens: Tensor, base: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cu_seqlens)
        ctx.base = base
        query, key, value = rotate_in_place(qkv, cu_seqlens, base, 1.0).detach().unbind(1)
        return query, key, value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (cu_seqlens,), (query, key, value) = ctx.saved_tensors, grads
        return rotate_packed(query, key, value, cu_seqlens, ctx.base, -1.0), None, None
