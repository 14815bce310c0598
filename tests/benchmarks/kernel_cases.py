"""The operations of a training step at one shape each, and who else can compute them.

bench_kernels.py measures them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import mmbert_kernels as kernels
from mmbert_kernels.rotary import rotary_unpacked

Function = Callable[..., Tensor | tuple[Tensor, ...]]


@dataclass(frozen=True)
class Case:
    """An operation at one shape: what to call, what it must move and compute, forward and both."""

    name: str
    arguments: tuple[Tensor, ...]
    """Those with requires_grad are differentiated."""
    ours: Function
    eager: Function
    forward_bytes: float = 0.0
    both_bytes: float = 0.0
    forward_flops: float = 0.0
    both_flops: float = 0.0
    public: dict[str, Function] = field(default_factory=dict)
    """Installed implementations by name."""


def cases(device: torch.device, dtype: torch.dtype, tokens: int, vocabulary: int) -> Iterator[Case]:
    """The operations of a step of mmBERT base."""
    d, f, heads = 768, 1152, 12
    size = dtype.itemsize
    row = tokens * d * size  # bytes of the hidden states

    def tensor(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, device=device) * scale).to(dtype).requires_grad_()

    x, residual, weight = tensor(tokens, d), tensor(tokens, d), tensor(d)
    yield Case(
        "layer norm",
        (x, weight),
        lambda x, w: kernels.layer_norm(x, w, 1e-5),
        lambda x, w: functional.layer_norm(x, (d,), w, None, 1e-5),
        2 * row,
        5 * row,
        public=liger_layer_norm(),
    )
    yield Case(
        "add + layer norm",
        (x, residual, weight),
        lambda x, r, w: kernels.add_layer_norm(x, r, w, 1e-5),
        lambda x, r, w: (functional.layer_norm(x + r, (d,), w, None, 1e-5), x + r),
        4 * row,
        8 * row,
    )
    yield Case(
        "dropout + add + norm",
        (x, residual, weight),
        lambda x, r, w: kernels.add_layer_norm(x, r, w, 1e-5, kernels.Dropout(0.1, 21)),
        eager_dropout_add_layer_norm,
        4 * row,
        9 * row,
    )
    ids = torch.randint(0, vocabulary, (tokens,), device=device)
    table = tensor(vocabulary, d)
    table_bytes = vocabulary * d * size
    yield Case(
        "embedding + norm",
        (ids, table, weight),
        lambda ids, table, w: kernels.embedding_layer_norm(ids, table, w, 1e-5),
        lambda ids, table, w: functional.layer_norm(
            functional.embedding(ids, table), (d,), w, None, 1e-5
        ),
        2 * row,
        4 * row + table_bytes,
    )
    yield Case(
        "geglu",
        (tensor(tokens, 2 * f),),
        kernels.geglu,
        lambda x: functional.gelu(x[:, :f]) * x[:, f:],
        3 * tokens * f * size,
        8 * tokens * f * size,
    )
    for length in dict.fromkeys(min(context, tokens) for context in (1024, 8192)):
        yield from attention_cases(tensor(tokens, 3 * d), length, heads, row)
    masked = round(0.3 * tokens)
    positions = torch.randperm(tokens, device=device)[:masked].sort().values
    yield Case(
        "gather rows",
        (x, positions),
        lambda x, positions: kernels.gather_rows(x, positions, ascending=True),
        lambda x, positions: x[positions],
        2 * masked * d * size,
        3 * masked * d * size + row,
    )
    labels = torch.randint(0, vocabulary, (masked,), device=device)
    product = 2.0 * masked * d * vocabulary
    yield Case(
        "linear cross-entropy",
        (tensor(masked, d), tensor(vocabulary, d, scale=0.05), tensor(vocabulary), labels),
        kernels.linear_cross_entropy,
        eager_cross_entropy,
        table_bytes,
        2 * table_bytes,
        product,
        3 * product,
        public=linear_cross_entropies(),
    )


def eager_dropout_add_layer_norm(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    """As it is usually written."""
    total = residual + functional.dropout(x, 0.1)
    return functional.layer_norm(total, weight.shape, weight, None, 1e-5), total


def attention_cases(qkv: Tensor, length: int, heads: int, row: int) -> Iterator[Case]:
    """Rotary and attention over documents of one length; qkv [T, 3d] is a linear's output."""
    tokens, d = qkv.shape[0], qkv.shape[1] // 3
    boundaries = [*range(0, tokens, length), tokens]
    cu_seqlens = torch.tensor(boundaries, dtype=torch.int32, device=qkv.device)

    def by_heads(qkv: Tensor) -> Tensor:
        return qkv.view(tokens, 3, heads, d // heads)

    if length == min(1024, tokens):
        yield Case(
            "rotary",
            (qkv,),
            lambda qkv: kernels.rotary(by_heads(qkv), cu_seqlens, 1e4),
            lambda qkv: eager_rotary(by_heads(qkv), length),
            4 * row,
            8 * row,
        )
        yield Case(
            "rotary, apart",
            (qkv,),
            lambda qkv: rotary_unpacked(by_heads(qkv), cu_seqlens, 1e4),
            lambda qkv: eager_rotary(by_heads(qkv), length).unbind(1),
            4 * row,
            10 * row,
        )
    for name, window in ((f"attention {length}", None), (f"window 128 of {length}", 128)):
        keys = length if window is None else min(window + 1, length)
        flops = 4.0 * tokens * keys * d
        yield Case(
            name,
            (qkv,),
            lambda qkv, window=window: kernels.attention(by_heads(qkv), cu_seqlens, length, window),
            lambda qkv, window=window: eager_attention(by_heads(qkv), length, window),
            4 * row,
            12 * row,
            flops,
            3.5 * flops,
            varlen_attention(by_heads, cu_seqlens, length, window),
        )


def eager_rotary(qkv: Tensor, length: int) -> Tensor:
    """Rotary on documents of one length, as it is usually written."""
    positions = torch.arange(qkv.shape[0], device=qkv.device) % length
    frequencies = 1e4 ** (-torch.arange(0, 64, 2, device=qkv.device) / 64)
    angles = torch.outer(positions.float(), frequencies).repeat(1, 2)[:, None, None, :]
    first, second = qkv[:, :2].chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    rotated = qkv[:, :2] * angles.cos() + turned * angles.sin()
    return torch.cat((rotated.to(qkv.dtype), qkv[:, 2:]), dim=1)


def eager_attention(qkv: Tensor, length: int, window: int | None) -> Tensor:
    """Attention over documents of one length, which `scaled_dot_product_attention` can batch."""
    whole = qkv.shape[0] // length * length
    query, key, value = qkv[:whole].view(-1, length, *qkv.shape[1:]).permute(2, 0, 3, 1, 4)
    mask = None
    if window is not None:
        position = torch.arange(length, device=qkv.device)
        mask = (position[:, None] - position[None, :]).abs() <= window // 2
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def eager_cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
    """With all logits at once."""
    logits = functional.linear(hidden, weight, bias).float()
    return functional.cross_entropy(logits, labels, reduction="none")


def varlen_attention(
    by_heads: Callable[[Tensor], Tensor], cu_seqlens: Tensor, length: int, window: int | None
) -> dict[str, Function]:
    """PyTorch's own on a GPU where ours is flash-attn."""
    from mmbert_kernels.packed_attention.gpu import varlen_attention as by_torch

    if not kernels.backends(cu_seqlens.device.type)["attention"].startswith("flash_attn"):
        return {}

    def call(qkv: Tensor) -> Tensor:
        query, key, value = by_heads(qkv).unbind(1)
        return by_torch((query, key, value), cu_seqlens, length, window)

    return {"varlen_attn": call}


def liger_layer_norm() -> dict[str, Function]:
    """Liger's layer norm, which has a bias."""
    try:
        from liger_kernel.ops.layer_norm import LigerLayerNormFunction
    except ImportError:
        return {}
    return {"liger": lambda x, w: LigerLayerNormFunction.apply(x, w, torch.zeros_like(w), 1e-5)}


def linear_cross_entropies() -> dict[str, Function]:
    """Liger's at its own chunk size, Apple's cut cross-entropy, PyTorch's (from 2.13)."""
    found: dict[str, Function] = {}
    try:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        loss = LigerFusedLinearCrossEntropyLoss(reduction="sum")
        found["liger"] = lambda hidden, weight, bias, labels: loss(weight, hidden, labels, bias)
    except ImportError:
        pass
    try:
        from cut_cross_entropy import linear_cross_entropy as cut

        found["cut-cross-entropy"] = lambda hidden, weight, bias, labels: cut(
            hidden, weight, labels, bias=bias, reduction="sum"
        )
    except ImportError:
        pass
    by_torch: Any = getattr(functional, "linear_cross_entropy", None)
    if by_torch is not None:
        found["torch"] = lambda hidden, weight, bias, labels: by_torch(
            hidden, weight, labels, linear_bias=bias, reduction="sum"
        )
    return found
