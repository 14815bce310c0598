"""Attention in packed documents: global, in a window, and with rotation."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

import mmbert_kernels as kernels
from tests.kernels.case import (
    LENGTHS,
    SMALL,
    Benchmark,
    Case,
    Function,
    Problem,
    Sizes,
    document_lengths,
    normal,
)
from tests.kernels.cases import rotary
from tests.kernels.cases.rotary import BASE, qkv_and_lengths

WINDOW = 6


def formula(
    qkv: Tensor, lengths: Sequence[int], window: int | None, *, causal: bool = False
) -> Tensor:
    """Compute attention over all pairs of tokens, masked, in float64."""
    query, key, value = qkv.double().unbind(1)
    tokens = qkv.shape[0]
    document = torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)]).to(qkv.device)
    position = torch.arange(tokens, device=qkv.device)
    seen = document[:, None] == document[None, :]
    if window is not None:
        seen = seen & ((position[:, None] - position[None, :]).abs() <= window // 2)
    if causal:
        seen = seen & (position[:, None] >= position[None, :])
    scores = torch.einsum("qhd,khd->hqk", query, key) / math.sqrt(qkv.shape[3])
    scores = scores.masked_fill(~seen, -math.inf)
    return torch.einsum("hqk,khd->qhd", scores.softmax(dim=-1), value)


def attention(
    sizes: Sizes, dtype: torch.dtype, window: int | None = None, *, causal: bool = False
) -> Problem:
    longest = max(sizes.lengths)
    return Problem(
        qkv_and_lengths(sizes, dtype),
        lambda qkv, cu_seqlens: kernels.attention(qkv, cu_seqlens, longest, window, causal=causal),
        lambda qkv, cu_seqlens: formula(qkv, document_lengths(cu_seqlens), window, causal=causal),
    )


def rotary_attention(sizes: Sizes, dtype: torch.dtype) -> Problem:
    longest = max(sizes.lengths)
    return Problem(
        qkv_and_lengths(sizes, dtype),
        lambda qkv, cu_seqlens: kernels.rotary_attention(
            qkv * 1, cu_seqlens, longest, WINDOW, BASE
        ),
        lambda qkv, cu_seqlens: formula(
            rotary.formula(qkv, document_lengths(cu_seqlens), BASE),
            document_lengths(cu_seqlens),
            WINDOW,
        ),
    )


def benchmarks(sizes: Sizes, dtype: torch.dtype) -> Iterator[Benchmark]:
    """Yield benchmarks with documents of the given length and of 8,192 tokens."""
    tokens, d = sizes.tokens, sizes.width
    row = tokens * d * dtype.itemsize
    qkv = normal(tokens, 3 * d, dtype=dtype)  # as a linear returns it

    def by_heads(qkv: Tensor) -> Tensor:
        return qkv.view(tokens, 3, sizes.heads, sizes.head_size)

    for length in dict.fromkeys((sizes.lengths[0], min(8192, tokens))):
        cu_seqlens = torch.tensor([*range(0, tokens, length), tokens], dtype=torch.int32)
        for name, window in ((f"attention {length}", None), (f"window 128 of {length}", 128)):
            keys = length if window is None else min(window + 1, length)
            flops = 4.0 * tokens * keys * d
            yield Benchmark(
                name,
                (qkv,),
                lambda qkv, window=window, length=length, cu_seqlens=cu_seqlens: kernels.attention(
                    by_heads(qkv), cu_seqlens, length, window
                ),
                lambda qkv, window=window, length=length: eager(by_heads(qkv), length, window),
                4 * row,
                12 * row,
                flops,
                3.5 * flops,
                varlen_attention(by_heads, cu_seqlens, length, window),
            )


def eager(qkv: Tensor, length: int, window: int | None) -> Tensor:
    """Compute attention over documents of one length by batched `scaled_dot_product_attention`."""
    whole = qkv.shape[0] // length * length
    query, key, value = qkv[:whole].view(-1, length, *qkv.shape[1:]).permute(2, 0, 3, 1, 4)
    mask = None
    if window is not None:
        position = torch.arange(length, device=qkv.device)
        mask = (position[:, None] - position[None, :]).abs() <= window // 2
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def varlen_attention(
    by_heads: Callable[[Tensor], Tensor], cu_seqlens: Tensor, length: int, window: int | None
) -> dict[str, Function]:
    """Return PyTorch's variable-length attention if ours is flash-attn."""
    from mmbert_kernels.packed_attention.gpu_libraries import varlen_attention as by_torch

    if not kernels.backends(cu_seqlens.device.type)["attention"].startswith("flash_attn"):
        return {}

    def call(qkv: Tensor) -> Tensor:
        query, key, value = by_heads(qkv).unbind(1)
        return by_torch((query, key, value), cu_seqlens, length, window)

    return {"varlen_attn": call}


def roundings(dtype: torch.dtype) -> float:
    """Return the tolerance with rotation, where the float32 angles are the largest error."""
    return max(48.0, rotary.roundings(dtype))


CASES = (
    Case(
        "attention",
        attention,
        (SMALL, Sizes((*LENGTHS, 5, 1, 40))),
        lambda dtype: 48,
        trace_names=("torch_attn::_varlen_attn", "FlashAttn", "_BlockedAttention"),
        benchmarks=benchmarks,
    ),
    Case(
        "attention-window",
        lambda sizes, dtype: attention(sizes, dtype, WINDOW),
        roundings=lambda dtype: 48,
    ),
    Case(
        "attention-causal",
        lambda sizes, dtype: attention(sizes, dtype, causal=True),
        (SMALL, Sizes((*LENGTHS, 5, 1, 40))),
        roundings=lambda dtype: 48,
    ),
    Case(
        "attention-causal-window",
        lambda sizes, dtype: attention(sizes, dtype, WINDOW, causal=True),
        roundings=lambda dtype: 48,
    ),
    Case("attention-rotary", rotary_attention, roundings=roundings),
)
