"""Linear-memory attention in a few large kernel calls on views of the packed row.

The kernel is PyTorch's flash kernel for CPUs or, on any device, gpu_plain.py. The latter is used
for float32 on GPUs, which no GPU library supports.

Global: one call per document; adjacent short documents share a call, with a mask. On a CPU with
512-bit vectors, long documents in float32 use cpu_dense.py. The lengths are read on the host.

Local window: the row is split into blocks of half a window. A block attends to its predecessor,
itself and its successor. Many blocks therefore form one batched call on overlapping views of keys
and values, masked by window and document. Cost and memory are linear in the length of the row. The
first and last blocks, which lack a neighbor, are separate calls.

Causal: one document's call tells the kernel, and other calls mask the later keys. A window's block
attends to its predecessor and itself.

The backward pass calls the kernel's backward in the same way and adds the gradients of overlapping
keys and values.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from mmbert_kernels.packed_attention.cpu_dense import MIN_TOKENS, dense_backward, dense_forward
from mmbert_kernels.packed_attention.gpu_plain import plain_backward, plain_forward
from mmbert_kernels.support.matmul import onednn_is_faster
from mmbert_kernels.support.sequences import document_numbers

# Maximum tokens of adjacent documents in a shared, masked call. At this size the masked token pairs
# cost about as much as another call. The overhead of a plain call is a dozen small operations.
SHARED_CALL_TOKENS = 192
SHARED_PLAIN_TOKENS = 1024
# Window blocks per plain call; limits the memory for its scores and copies of keys.
PLAIN_BLOCKS = 64


@dataclass(frozen=True)
class _Part:
    """One kernel call: `blocks` blocks of queries, each attending to its own range of keys."""

    first_query: int
    queries: int
    first_key: int
    keys: int
    blocks: int
    masked: bool


def blocked_attention(
    qkv: Tensor,
    cu_seqlens: Tensor,
    window: int | None,
    *,
    plain: bool = False,
    causal: bool = False,
) -> Tensor:
    """Compute `attention` on a CPU or, with `plain`, on any device.

    Arguments and result: see `attention`; the last dimension must have stride 1. Without a window
    the host synchronizes to read the lengths.
    """
    if window is not None:
        most = PLAIN_BLOCKS if plain else qkv.shape[0]
        parts = _window_parts(qkv.shape[0], window, most, causal=causal)
    else:
        shared = SHARED_PLAIN_TOKENS if plain else SHARED_CALL_TOKENS
        parts = _document_parts(host_ends(cu_seqlens), shared)
    out: Tensor = _BlockedAttention.apply(qkv, cu_seqlens, window, parts, plain, causal)
    return out


def host_ends(cu_seqlens: Tensor) -> list[int]:
    """Copy the cumulative lengths to the host, which synchronizes with a GPU."""
    ends: list[int] = cu_seqlens.tolist()
    return ends


def _document_parts(ends: list[int], shared: int) -> list[_Part]:
    """Return a part per document, or per run of short documents of at most `shared` tokens."""
    parts: list[_Part] = []
    start, documents = 0, 0
    for previous, end in pairwise(ends):
        if end == previous:
            continue
        if documents and end - start > shared:
            parts.append(_Part(start, previous - start, start, previous - start, 1, documents > 1))
            start, documents = previous, 0
        documents += 1
    if documents:
        parts.append(_Part(start, ends[-1] - start, start, ends[-1] - start, 1, documents > 1))
    return parts


def _window_parts(tokens: int, window: int, most: int, *, causal: bool) -> list[_Part]:
    """Return a row's parts: first block, inner blocks in batches of at most `most`, remainder."""
    reach = window // 2
    ahead = 0 if causal else reach
    inner = (tokens - reach - ahead) // reach
    if inner < 1:
        return [_Part(0, tokens, 0, tokens, 1, True)]
    keys, last = 2 * reach + ahead, reach * (inner + 1)
    parts = [
        _Part(0, reach, 0, reach + ahead, 1, True),
        *(
            _Part(reach * (1 + done), reach, reach * done, keys, min(most, inner - done), True)
            for done in range(0, inner, most)
        ),
    ]
    if last < tokens:  # always, if the last block but one attends to it
        parts.append(_Part(last, tokens - last, last - reach, tokens - last + reach, 1, True))
    return parts


def _is_dense(part: _Part, window: int | None, qkv: Tensor) -> bool:
    """Whether the part is a single long document with global attention in float32, for oneDNN."""
    long = part.queries >= MIN_TOKENS and not part.masked
    return long and window is None and qkv.dtype == torch.float32 and onednn_is_faster()


def _mask(
    part: _Part, numbers: Tensor, window: int | None, dtype: torch.dtype, *, causal: bool
) -> Tensor | None:
    """Return the part's additive mask, 0 or -inf: [blocks, 1, queries, keys].

    None if it is all 0, or follows from `causal` alone.
    """
    if not part.masked:
        return None
    query_numbers = numbers.as_strided(
        (part.blocks, part.queries, 1), (part.queries, 1, 0), part.first_query
    )
    key_numbers = numbers.as_strided(
        (part.blocks, 1, part.keys), (part.queries, 0, 1), part.first_key
    )
    seen = query_numbers == key_numbers
    if window is not None or causal:
        queries = torch.arange(part.queries, device=numbers.device) + part.first_query
        keys = torch.arange(part.keys, device=numbers.device) + part.first_key
        distances = queries[:, None] - keys[None, :]
        if window is not None:
            seen &= distances.abs() <= window // 2
        if causal:
            seen &= distances >= 0
    mask = torch.zeros(seen.shape, dtype=dtype, device=numbers.device)
    return mask.masked_fill_(~seen, -torch.inf)[:, None]


def _blocks(tensor: Tensor, part: _Part, first: int, length: int) -> Tensor:
    """Return a view [blocks, H, length, D] of tensor [T, H, D]; block b starts at first + b *
    queries."""
    token_stride, head_stride, channel_stride = tensor.stride()
    return tensor.as_strided(
        (part.blocks, tensor.shape[1], length, tensor.shape[2]),
        (part.queries * token_stride, head_stride, token_stride, channel_stride),
        tensor.storage_offset() + first * token_stride,
    )


class _BlockedAttention(torch.autograd.Function):
    """Calls the kernel for all parts, forward and backward."""

    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        cu_seqlens: Tensor,
        window: int | None,
        parts: list[_Part],
        plain: bool,
        causal: bool,
    ) -> Tensor:
        numbers = document_numbers(cu_seqlens, qkv.shape[0])
        out = qkv.new_empty((qkv.shape[0], *qkv.shape[2:]))
        kernel = plain_forward if plain else _flash_forward
        log_sums = []
        for part in parts:
            if not plain and _is_dense(part, window, qkv):
                tokens = slice(part.first_query, part.first_query + part.queries)
                out[tokens], log_sum = dense_forward(qkv[tokens], causal=causal)
                log_sums.append(log_sum)
                continue
            mask = _mask(part, numbers, window, qkv.dtype, causal=causal)
            block_out, log_sum = kernel(
                *_arguments(qkv, part), mask, causal=causal and not part.masked
            )
            _blocks(out, part, part.first_query, part.queries).copy_(block_out)
            log_sums.append(log_sum)
        ctx.save_for_backward(qkv, numbers, out, *log_sums)
        ctx.window, ctx.parts, ctx.plain, ctx.causal = window, parts, plain, causal
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        qkv, numbers, out, *log_sums = ctx.saved_tensors
        if grad_out.stride(2) != 1:
            grad_out = grad_out.contiguous()
        window: int | None = ctx.window
        parts: list[_Part] = ctx.parts
        kernel = plain_backward if ctx.plain else _flash_backward
        # With a window, up to three blocks contribute to the gradient of a key.
        grad = torch.empty_like(qkv) if window is None else torch.zeros_like(qkv)
        for part, log_sum in zip(parts, log_sums, strict=True):
            if not ctx.plain and _is_dense(part, window, qkv):
                tokens = slice(part.first_query, part.first_query + part.queries)
                grad[tokens] = dense_backward(
                    grad_out[tokens], qkv[tokens], out[tokens], log_sum, causal=ctx.causal
                )
                continue
            grads = kernel(
                _blocks(grad_out, part, part.first_query, part.queries),
                *_arguments(qkv, part),
                _blocks(out, part, part.first_query, part.queries),
                log_sum,
                mask=_mask(part, numbers, window, qkv.dtype, causal=ctx.causal),
                causal=ctx.causal and not part.masked,
            )
            _blocks(grad[:, 0], part, part.first_query, part.queries).copy_(grads[0])
            for index in (1, 2):
                _add_overlapping(grad[:, index], grads[index], part, window)
        return grad, None, None, None, None, None


def _arguments(qkv: Tensor, part: _Part) -> tuple[Tensor, Tensor, Tensor]:
    """Return a part's blocks of queries, keys and values, as views."""
    return (
        _blocks(qkv[:, 0], part, part.first_query, part.queries),
        _blocks(qkv[:, 1], part, part.first_key, part.keys),
        _blocks(qkv[:, 2], part, part.first_key, part.keys),
    )


def _flash_forward(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, causal: bool
) -> tuple[Tensor, Tensor]:
    results: tuple[Tensor, Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, causal, attn_mask=mask
    )
    return results


def _flash_backward(
    *tensors: Tensor, mask: Tensor | None, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Call PyTorch's flash backward with the arguments of `plain_backward`."""
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    grads: tuple[Tensor, Tensor, Tensor] = backward(*tensors, 0.0, causal, attn_mask=mask)
    return grads


def _add_overlapping(target: Tensor, blocks: Tensor, part: _Part, window: int | None) -> None:
    """Add key or value gradients [blocks, H, keys, D] to target [T, H, D]."""
    if window is None:
        _blocks(target, part, part.first_key, part.keys).copy_(blocks)
        return
    if part.blocks == 1:
        _blocks(target, part, part.first_key, part.keys).add_(blocks)
        return
    for first in range(0, part.keys, part.queries):  # blocks of these views do not overlap
        piece = blocks[:, :, first : first + part.queries]
        _blocks(target, part, part.first_key + first, part.queries).add_(piece)
