"""Attention inside the documents of a packed row, over all of a document or a local window.

`attention` takes what is rotated already; `rotary_attention`, which the encoder calls, rotates too.

    out[t] = sum over s of softmax_s(q[t] . k[s] / sqrt D) v[s]

where s runs over the tokens of t's own document, and with a window only over those with
|s - t| <= window // 2.

Implementations, in the order of preference (dispatch.py chooses):

`flash_attn_3`  flash-attn 3 (its package flash_attn_interface), on Hopper where it is installed;
`flash_attn`    flash-attn 2, on a GPU where it is installed;
`varlen`        PyTorch's torch.nn.attention.varlen, on a GPU;
`plain`         on a GPU in float32, which the three above do not take (cpu_blocked.py with
                gpu_plain.py): linear memory, but the host waits for the lengths;
`blocked`       on a CPU (cpu_blocked.py): linear in the length for a local window;
`reference`     document by document and block by block, in plain PyTorch, on any device.
"""

import logging
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from mmbert_kernels.packed_attention.cpu_blocked import blocked_attention
from mmbert_kernels.packed_attention.gpu import flash_attention, flash_attention_3, varlen_attention
from mmbert_kernels.rotary import rotary, rotary_unpacked
from mmbert_kernels.support.checks import require
from mmbert_kernels.support.dispatch import backend
from mmbert_kernels.support.sequences import check_cu_seqlens

logger = logging.getLogger("mmbert.kernels")

# Those that take queries, keys and values as three tensors.
UNPACKED = {"flash_attn_3": flash_attention_3, "varlen": varlen_attention}


def attention(qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, window: int | None) -> Tensor:
    """Attend within documents.

    Args:
        qkv: [T, 3, H, D]: queries, keys, values, already rotated.
        cu_seqlens: int32 [documents + 1]: 0, the end of each document, up to T; padding
            repeats T.
        max_seqlen: length of the longest document (an upper bound will do). A host number, so
            that nothing waits for the device.
        window: total width of the local window, window // 2 tokens to each side; None is all
            of the document.

    Returns:
        [T, H, D], of qkv's dtype.

    Raises:
        ValueError: shapes do not fit, or the window is no positive even number.
    """
    cu_seqlens = _checked(qkv, cu_seqlens, window)
    if qkv.shape[0] == 0:
        return qkv[:, 0]
    qkv = qkv if qkv.stride(3) == 1 else qkv.contiguous()
    chosen = backend("attention", qkv.device.type, qkv.dtype)
    if chosen in UNPACKED:
        # unbind, because its gradient is one stack; three slices would each fill a zeroed qkv
        query, key, value = qkv.unbind(1)
        return UNPACKED[chosen]((query, key, value), cu_seqlens, max_seqlen, window)
    if chosen == "flash_attn":
        return flash_attention(qkv, cu_seqlens, max_seqlen, window)
    if chosen == "plain" and qkv.device.type != "cpu":
        _warn_of_plain(qkv.dtype)
    if chosen in ("blocked", "plain"):
        return blocked_attention(qkv, cu_seqlens, window, plain=chosen == "plain")
    return attention_reference(qkv, cu_seqlens, window)


@cache
def _warn_of_plain(dtype: torch.dtype) -> None:
    """Once in a process for each type."""
    logger.warning(
        "attention in %s on a GPU runs in plain PyTorch: memory is linear in the tokens, but it "
        "is slower than in bfloat16, and every global layer waits for the documents' lengths",
        str(dtype).removeprefix("torch."),
    )


def rotary_attention(
    qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, window: int | None, base: float
) -> Tensor:
    """`attention` of `qkv` after `rotary` with this base; `qkv` is given away.

    Arguments, result and errors as there. Where attention gives the gradients of queries, keys and
    values apart, they are rotated and brought together in one pass.
    """
    cu_seqlens = _checked(qkv, cu_seqlens, window)
    chosen = backend("attention", qkv.device.type, qkv.dtype)
    if chosen in UNPACKED and qkv.shape[0]:
        parts = rotary_unpacked(qkv, cu_seqlens, base)
        return UNPACKED[chosen](parts, cu_seqlens, max_seqlen, window)
    return attention(rotary(qkv, cu_seqlens, base), cu_seqlens, max_seqlen, window)


def _checked(qkv: Tensor, cu_seqlens: Tensor, window: int | None) -> Tensor:
    """cu_seqlens, contiguous."""
    require(
        qkv.ndim == 4 and qkv.shape[1] == 3,
        f"attention: qkv must be [T, 3, H, D]; got {list(qkv.shape)}",
    )
    check_cu_seqlens(cu_seqlens)
    require(
        window is None or (window > 0 and window % 2 == 0),
        f"attention: the window must be a positive even number of tokens; got {window}",
    )
    return cu_seqlens.contiguous()


def attention_reference(qkv: Tensor, cu_seqlens: Tensor, window: int | None) -> Tensor:
    """`attention` in plain PyTorch: one call per document, or per block of a window's width.

    It reads the lengths on the host, so on a GPU it waits for them.
    """
    ends = cu_seqlens.tolist()
    pieces = []
    for start, end in pairwise(ends):
        step = end - start if window is None else max(window, 1)
        for first in range(start, end, max(step, 1)):
            last = min(first + step, end)
            pieces.append(_attend_block(qkv, first, last, start, end, window))
    return torch.cat(pieces) if pieces else qkv[:, 0]


def _attend_block(
    qkv: Tensor, first: int, last: int, start: int, end: int, window: int | None
) -> Tensor:
    """Queries [first, last) of the document [start, end) over the keys that they may see."""
    if window is None:
        lowest, highest, mask = start, end, None
    else:
        reach = window // 2
        lowest, highest = max(start, first - reach), min(end, last + reach)
        queries = torch.arange(first, last, device=qkv.device)
        keys = torch.arange(lowest, highest, device=qkv.device)
        mask = (queries[:, None] - keys[None, :]).abs() <= reach
    out = functional.scaled_dot_product_attention(
        qkv[first:last, 0].transpose(0, 1),
        qkv[lowest:highest, 1].transpose(0, 1),
        qkv[lowest:highest, 2].transpose(0, 1),
        attn_mask=mask,
    )
    return out.transpose(0, 1)
