"""Triton kernel of rotary position embedding (formulas: rotary.py).

Each program rotates the queries or the keys of some tokens in all heads, and reads their cosines
and sines once, from a table that stays in the L2 cache. When packing a gradient from three tensors,
additional programs copy the values.
"""

# ruff: noqa: N803  (Triton's compile-time arguments are in capitals)

import torch
from torch import Tensor

from mmbert_kernels.rotary_embedding.tables import position_tables
from mmbert_kernels.support.triton_import import blocks, launch, next_power_of_2, tl, triton

# Tokens and heads of a tile. With a head size of 64, each lane of the two warps has eight pairs, or
# two 16-byte reads.
BLOCK_TOKENS, BLOCK_HEADS = 8, 2


def rotate_in_place(qkv: Tensor, cu_seqlens: Tensor, base: float, direction: float) -> Tensor:
    """Rotate qkv [T, 3, H, D] in place, or in a copy if heads are strided or elements are shared.

    direction: sign of the angle, 1 or -1.
    """
    if qkv.stride(3) != 1 or 0 in qkv.stride():
        qkv = qkv.contiguous()
    query, key, _ = qkv.unbind(1)
    _launch(query, key, None, qkv, cu_seqlens, base, direction)
    return qkv


def rotate_packed(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, base: float, direction: float
) -> Tensor:
    """Pack query, key and value [T, H, D] into [T, 3, H, D], with query and key rotated."""
    parts = [part if part.stride(2) == 1 else part.contiguous() for part in (query, key, value)]
    tokens, heads, size = query.shape
    out = torch.empty(tokens, 3, heads, size, dtype=query.dtype, device=query.device)
    _launch(parts[0], parts[1], parts[2], out, cu_seqlens, base, direction)
    return out


def _launch(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    out: Tensor,
    cu_seqlens: Tensor,
    base: float,
    direction: float,
) -> None:
    tokens, heads, size = query.shape
    if not query.numel():
        return
    launch(
        _rotate_kernel,
        (blocks(tokens, BLOCK_TOKENS), 2 if value is None else 3),
        query,
        key,
        value,
        out,
        cu_seqlens,
        position_tables(tokens, size, base, query.device),
        tokens,
        cu_seqlens.shape[0],
        heads,
        size // 2,
        direction,
        *query.stride()[:2],
        *key.stride()[:2],
        *(value.stride()[:2] if value is not None else (0, 0)),
        *out.stride()[:3],
        HAS_VALUE=value is not None,
        SEARCH_STEPS=cu_seqlens.shape[0].bit_length(),
        BLOCK_TOKENS=BLOCK_TOKENS,
        BLOCK_HEADS=BLOCK_HEADS,
        HALF=next_power_of_2(size // 2),
        num_warps=2,
    )


@triton.jit
def _rotate_part(  # type: ignore[no-untyped-def]
    source_pointer,
    out_pointer,
    token,
    token_inside,
    cosine,
    sine,
    heads,
    half,
    token_stride,
    head_stride,
    out_token_stride,
    out_head_stride,
    ROTATE: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    HALF: tl.constexpr,
):
    pair = tl.arange(0, HALF)
    source_at = source_pointer + token[:, None, None] * token_stride + pair[None, None, :]
    out_at = out_pointer + token[:, None, None] * out_token_stride + pair[None, None, :]
    across = (token_inside[:, None] & (pair < half)[None, :])[:, None, :]
    for first_head in range(0, heads, BLOCK_HEADS):
        head = tl.cast(first_head + tl.arange(0, BLOCK_HEADS), tl.int64)[None, :, None]
        inside = across & (head < heads)
        first = tl.load(source_at + head * head_stride, mask=inside, other=0.0)
        second = tl.load(source_at + head * head_stride + half, mask=inside, other=0.0)
        if ROTATE:
            a, b = first.to(tl.float32), second.to(tl.float32)
            first = (a * cosine - b * sine).to(out_pointer.dtype.element_ty)
            second = (b * cosine + a * sine).to(out_pointer.dtype.element_ty)
        tl.store(out_at + head * out_head_stride, first, mask=inside)
        tl.store(out_at + head * out_head_stride + half, second, mask=inside)


@triton.jit
def _rotate_kernel(  # type: ignore[no-untyped-def]
    query_pointer,
    key_pointer,
    value_pointer,
    out_pointer,
    cu_seqlens_pointer,
    tables_pointer,
    tokens,
    boundaries,
    heads,
    half,
    direction,
    query_token_stride,
    query_head_stride,
    key_token_stride,
    key_head_stride,
    value_token_stride,
    value_head_stride,
    out_token_stride,
    out_part_stride,
    out_head_stride,
    HAS_VALUE: tl.constexpr,
    SEARCH_STEPS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    HALF: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    token_inside = token < tokens
    # Binary search for the last boundary at or before the token, the start of its document.
    low = tl.zeros([BLOCK_TOKENS], dtype=tl.int32)
    high = tl.zeros([BLOCK_TOKENS], dtype=tl.int32) + boundaries
    for _ in range(SEARCH_STEPS):
        middle = (low + high) // 2
        before = tl.load(cu_seqlens_pointer + middle, mask=token_inside, other=0) <= token
        low = tl.where(before, middle, low)
        high = tl.where(before, high, middle)
    start = tl.load(cu_seqlens_pointer + low, mask=token_inside, other=0)
    pair = tl.arange(0, HALF)
    turned = (token_inside[:, None] & (pair < half)[None, :])[:, None, :]
    cosine_at = tables_pointer + ((token - start) * 2 * half)[:, None, None] + pair[None, None, :]
    cosine = tl.load(cosine_at, mask=turned, other=0.0)
    sine = tl.load(cosine_at + half, mask=turned, other=0.0) * direction
    part = tl.program_id(1)
    if part == 0:
        _rotate_part(
            query_pointer, out_pointer, token, token_inside, cosine, sine, heads, half,
            query_token_stride, query_head_stride, out_token_stride, out_head_stride,
            True, BLOCK_HEADS, HALF,
        )  # fmt: skip
    elif part == 1:
        _rotate_part(
            key_pointer, out_pointer + out_part_stride, token, token_inside, cosine, sine, heads,
            half, key_token_stride, key_head_stride, out_token_stride, out_head_stride,
            True, BLOCK_HEADS, HALF,
        )  # fmt: skip
    elif HAS_VALUE:
        value_out_pointer = out_pointer + 2 * tl.cast(out_part_stride, tl.int64)
        _rotate_part(
            value_pointer, value_out_pointer, token, token_inside, cosine, sine, heads,
            half, value_token_stride, value_head_stride, out_token_stride, out_head_stride,
            False, BLOCK_HEADS, HALF,
        )  # fmt: skip
