"""Attention within the documents of a packed row, global or in a local window.

`attention` takes rotated queries and keys; `rotary_attention`, used by the encoder, rotates them.

    out[t] = sum over s of softmax_s(q[t] . k[s] / sqrt D) v[s]

where s runs over the tokens of t's own document, and with a window only over those with
|s - t| <= window // 2. With `causal`, only over those with s <= t too: the whole document so far,
or the window's half before the token, and the token itself.

Backends, in order of preference (chosen by dispatch.py):

`flash_attn_3`  flash-attn 3 (package flash_attn_interface), on Hopper GPUs if installed;
`flash_attn`    flash-attn 2, on GPUs if installed;
`varlen`        PyTorch's torch.nn.attention.varlen, on GPUs;
`plain`         for float32 on GPUs, which the three above do not support (cpu_blocked.py with
                gpu_plain.py): linear memory, but global layers synchronize to read the lengths;
`blocked`       on CPUs (cpu_blocked.py): linear in the length for a local window;
`reference`     plain PyTorch on any device, one call per document or window-sized block.
"""

import logging
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from mmbert_kernels.packed_attention.cpu_blocked import blocked_attention
from mmbert_kernels.packed_attention.gpu_libraries import (
    flash_attention,
    flash_attention_3,
    varlen_attention,
)
from mmbert_kernels.rotary_embedding.rotary import rotary, rotary_unpacked
from mmbert_kernels.support.checks import require
from mmbert_kernels.support.dispatch import backend
from mmbert_kernels.support.sequences import check_cu_seqlens

logger = logging.getLogger("mmbert.kernels")

# Backends that take queries, keys and values as three tensors.
UNPACKED = {"flash_attn_3": flash_attention_3, "varlen": varlen_attention}


def attention(
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    window: int | None,
    *,
    causal: bool = False,
) -> Tensor:
    """Compute attention within documents.

    Args:
        qkv: [T, 3, H, D]: queries, keys and values, already rotated.
        cu_seqlens: int32 [documents + 1]: 0 and the end of each document, up to T; padded with T.
        max_seqlen: length of the longest document or an upper bound. A Python integer, to avoid a
            synchronization.
        window: total width of the local window, window // 2 tokens to each side; None for the
            whole document.
        causal: whether a token attends to no later one: window // 2 tokens back and none ahead.

    Returns:
        [T, H, D] in qkv's dtype.

    Raises:
        ValueError: shapes do not match, or the window is not a positive even number.
    """
    cu_seqlens = _checked(qkv, cu_seqlens, window)
    if qkv.shape[0] == 0:
        return qkv[:, 0]
    qkv = qkv if qkv.stride(3) == 1 else qkv.contiguous()
    chosen = backend("attention", qkv.device.type, qkv.dtype)
    if chosen in UNPACKED:
        # unbind, because its backward is a single stack. Three slices would each zero-fill a
        # gradient of qkv's size.
        query, key, value = qkv.unbind(1)
        return UNPACKED[chosen]((query, key, value), cu_seqlens, max_seqlen, window, causal=causal)
    if chosen == "flash_attn":
        return flash_attention(qkv, cu_seqlens, max_seqlen, window, causal=causal)
    if chosen == "plain" and qkv.device.type != "cpu":
        _warn_of_plain(qkv.dtype)
    if chosen in ("blocked", "plain"):
        return blocked_attention(qkv, cu_seqlens, window, plain=chosen == "plain", causal=causal)
    return attention_reference(qkv, cu_seqlens, window, causal=causal)


@cache
def _warn_of_plain(dtype: torch.dtype) -> None:
    """Log a warning, once per process and dtype."""
    logger.warning(
        "attention in %s on a GPU runs in plain PyTorch: memory is linear in the tokens, but it "
        "is slower than in bfloat16, and every global layer waits for the documents' lengths",
        str(dtype).removeprefix("torch."),
    )


def rotary_attention(
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    window: int | None,
    base: float,
    *,
    causal: bool = False,
) -> Tensor:
    """Apply `rotary`, possibly in place, then `attention`. Do not use `qkv` afterwards.

    Arguments, result and errors: see the two. Gradients that the backend returns as three tensors
    are rotated and packed in one pass.
    """
    cu_seqlens = _checked(qkv, cu_seqlens, window)
    chosen = backend("attention", qkv.device.type, qkv.dtype)
    if chosen in UNPACKED and qkv.shape[0]:
        parts = rotary_unpacked(qkv, cu_seqlens, base)
        return UNPACKED[chosen](parts, cu_seqlens, max_seqlen, window, causal=causal)
    return attention(rotary(qkv, cu_seqlens, base), cu_seqlens, max_seqlen, window, causal=causal)


def _checked(qkv: Tensor, cu_seqlens: Tensor, window: int | None) -> Tensor:
    """Check the arguments and return cu_seqlens, contiguous."""
    require(
        qkv.ndim == 4 and qkv.shape[1] == 3,
        f"attention: qkv must be [T, 3, H, D]; got {list(qkv.shape)}",
    )
    check_cu_seqlens(cu_seqlens)
    require(
        window is None or (window > 0 and window % 2 == 0),
        f"attention: window must be a positive even number of tokens; got {window}",
    )
    return cu_seqlens.contiguous()


def attention_reference(
    qkv: Tensor, cu_seqlens: Tensor, window: int | None, *, causal: bool = False
) -> Tensor:
    """Compute `attention` in plain PyTorch, with one call per document or window-sized block.

    Reads the lengths on the host, which synchronizes with a GPU.
    """
    ends = cu_seqlens.tolist()
    pieces = []
    for start, end in pairwise(ends):
        step = end - start if window is None else max(window, 1)
        for first in range(start, end, max(step, 1)):
            last = min(first + step, end)
            pieces.append(_attend_block(qkv, (first, last), (start, end), window, causal=causal))
    return torch.cat(pieces) if pieces else qkv[:, 0]


def _attend_block(
    qkv: Tensor,
    block: tuple[int, int],
    document: tuple[int, int],
    window: int | None,
    *,
    causal: bool,
) -> Tensor:
    """Compute attention of a block of queries, [first, last), of the document [start, end)."""
    (first, last), (start, end) = block, document
    back = end - start if window is None else window // 2
    ahead = 0 if causal else back
    lowest, highest = max(start, first - back), min(end, last + ahead)
    mask = None
    if window is not None or causal:
        queries = torch.arange(first, last, device=qkv.device)
        keys = torch.arange(lowest, highest, device=qkv.device)
        distances = queries[:, None] - keys[None, :]
        mask = (distances <= back) & (distances >= -ahead)
    out = functional.scaled_dot_product_attention(
        qkv[first:last, 0].transpose(0, 1),
        qkv[lowest:highest, 1].transpose(0, 1),
        qkv[lowest:highest, 2].transpose(0, 1),
        attn_mask=mask,
    )
    return out.transpose(0, 1)
