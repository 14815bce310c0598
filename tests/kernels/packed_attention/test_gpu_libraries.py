"""Attention by flash-attn and PyTorch's varlen: signatures of the calls, and values on a GPU."""

import inspect
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch

import mmbert_kernels as kernels
from mmbert_kernels.packed_attention.gpu_libraries import (
    flash_attention,
    flash_attention_3,
    varlen_attention,
)
from mmbert_kernels.support.dispatch import ATTENTION_PACKAGES, is_hopper, is_installed
from tests.kernels import layouts
from tests.kernels.case import LENGTHS, cumulative
from tests.kernels.cases import attention, rotary
from tests.kernels.comparison import compare

pytestmark = pytest.mark.usefixtures("fresh_choice")


def published_flash_attention(
    qkv: torch.Tensor,
    cu_seqlens: torch.Tensor,
    max_seqlen: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: torch.Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Any:
    """Compute the reference behind flash_attn 2.8.3's flash_attn_varlen_qkvpacked_func signature.

    flash-attn has no CPU build and is not run by these tests.
    """
    assert dropout_p == 0.0
    assert softmax_scale is None
    assert qkv.ndim == 4
    assert qkv.shape[1] == 3
    assert cu_seqlens.dtype == torch.int32
    left, right = window_size
    if causal:  # flash_api.cpp, mha_varlen_fwd: `if (is_causal) { window_size_right = 0; }`
        right = 0
    return _between(qkv, cu_seqlens, left, right)


def _between(qkv: torch.Tensor, cu_seqlens: torch.Tensor, left: int, right: int) -> torch.Tensor:
    """Compute attention to `left` tokens before and `right` after, -1 for no limit, densely."""
    tokens = torch.arange(len(qkv))
    document = torch.searchsorted(cu_seqlens.long(), tokens, right=True)
    back = tokens[:, None] - tokens[None, :]
    seen = document[:, None] == document[None, :]
    seen &= (back <= left) | (left < 0)
    seen &= (back >= -right) | (right < 0)
    query, key, value = qkv.transpose(0, 2).unbind(1)
    return torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=seen
    ).transpose(0, 1)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 16])
def test_flash_attention_is_called_as_published(
    monkeypatch: pytest.MonkeyPatch, window: int | None, causal: bool
) -> None:
    fake = types.ModuleType("flash_attn")
    fake.flash_attn_varlen_qkvpacked_func = published_flash_attention  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", fake)
    qkv, cu_seqlens = torch.randn(70, 3, 2, 16).bfloat16(), cumulative((5, 1, 64), padding=2)
    computed = flash_attention(qkv, cu_seqlens, 64, window, causal=causal)
    blocked = kernels.attention(qkv, cu_seqlens, 64, window, causal=causal)
    torch.testing.assert_close(computed, blocked, rtol=2**-6, atol=2**-6)
    with pytest.raises(ValueError, match=r"bfloat16 or float16, not torch\.float32"):
        flash_attention(qkv.float(), cu_seqlens, 64, window)


def published_flash_attention_3(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    seqused_q: torch.Tensor | None = None,
    seqused_k: torch.Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    qv: torch.Tensor | None = None,
    q_descale: torch.Tensor | None = None,
    k_descale: torch.Tensor | None = None,
    v_descale: torch.Tensor | None = None,
    window_size: tuple[int, int] = (-1, -1),
    attention_chunk: int = 0,
    softcap: float = 0.0,
    num_splits: int = 1,
    pack_gqa: bool | None = None,
    deterministic: bool = False,
    sm_margin: int = 0,
    return_attn_probs: bool = False,
) -> Any:
    """Compute the reference behind flash-attn 3's flash_attn_varlen_func signature."""
    assert cu_seqlens_q is cu_seqlens_k
    assert max_seqlen_q == max_seqlen_k
    assert seqused_q is seqused_k is qv is q_descale is k_descale is v_descale is None
    assert (attention_chunk, softcap, num_splits, pack_gqa, sm_margin) == (0, 0.0, 1, None, 0)
    qkv = torch.stack((q, k, v), dim=1)
    return published_flash_attention(
        qkv,
        cu_seqlens_q,
        max_seqlen_q,
        0.0,
        softmax_scale,
        causal,
        window_size,
        deterministic=deterministic,
        return_attn_probs=return_attn_probs,
    )


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 16])
def test_flash_attention_3_is_called_as_published(
    monkeypatch: pytest.MonkeyPatch, window: int | None, causal: bool
) -> None:
    fake = types.ModuleType("flash_attn_interface")
    fake.flash_attn_varlen_func = published_flash_attention_3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn_interface", fake)
    qkv = torch.randn(70, 3, 2, 16).bfloat16().requires_grad_()
    cu_seqlens = cumulative((5, 1, 64), padding=2)
    calls: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "attention": lambda qkv: kernels.attention(qkv, cu_seqlens, 64, window, causal=causal),
        "rotary_attention": lambda qkv: kernels.rotary_attention(
            qkv, cu_seqlens, 64, window, 1e4, causal=causal
        ),
    }
    for call in calls.values():
        results = []
        for chosen in ("flash_attn_3", "blocked"):
            monkeypatch.setattr(
                sys.modules["mmbert_kernels.packed_attention.attention"],
                "backend",
                lambda name, device, dtype, chosen=chosen: chosen,
            )
            computed = call(qkv)
            (gradient,) = torch.autograd.grad(computed.square().sum(), qkv)
            results.append((computed, gradient))
        for flash, blocked in zip(*results, strict=True):
            # both have some intermediate results in bfloat16
            torch.testing.assert_close(flash, blocked, rtol=2**-5, atol=2**-5)


@pytest.mark.parametrize("name", ["flash_attn", "flash_attn_3"])
@pytest.mark.parametrize("wanted", [True, False])
def test_flash_attention_adds_in_a_fixed_order_when_torch_is_to(
    monkeypatch: pytest.MonkeyPatch, name: str, wanted: bool
) -> None:
    asked = []

    def attend(*_: Any, deterministic: bool, **__: Any) -> torch.Tensor:
        asked.append(deterministic)
        return torch.zeros(8, 2, 16)

    fake = types.ModuleType(name)
    fake.flash_attn_varlen_qkvpacked_func = attend  # type: ignore[attr-defined]
    fake.flash_attn_varlen_func = attend  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", fake)
    monkeypatch.setitem(sys.modules, "flash_attn_interface", fake)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: wanted)
    qkv, cu_seqlens = torch.randn(8, 3, 2, 16).bfloat16(), cumulative((8,))
    if name == "flash_attn":
        flash_attention(qkv, cu_seqlens, 8, None)
    else:
        flash_attention_3(qkv.unbind(1), cu_seqlens, 8, None)
    assert asked == [wanted]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 128])
def test_varlen_attention_is_called_by_its_signature(
    monkeypatch: pytest.MonkeyPatch, window: int | None, causal: bool
) -> None:
    from torch.nn.attention import varlen

    signature = inspect.signature(varlen.varlen_attn)
    calls = []

    def recorded(*arguments: Any, **named: Any) -> torch.Tensor:
        calls.append(signature.bind(*arguments, **named).arguments)
        return arguments[0]

    monkeypatch.setattr(varlen, "varlen_attn", recorded)
    qkv, cu_seqlens = torch.randn(70, 3, 2, 16).bfloat16(), cumulative((5, 1, 64))
    varlen_attention(qkv.unbind(1), cu_seqlens, 64, window, causal=causal)
    (call,) = calls
    assert call["max_q"] == call["max_k"] == 64
    assert call["cu_seq_q"] is call["cu_seq_k"] is cu_seqlens
    # Its documentation: (-1, 0) for causal attention, (W, 0) with a window of W tokens back.
    back = -1 if window is None else 64
    assert call["window_size"] == (back, 0 if causal else back)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["varlen", "flash_attn", "flash_attn_3"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 128])
def test_attention_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    dtype: torch.dtype,
    window: int | None,
    causal: bool,
) -> None:
    package = ATTENTION_PACKAGES[name]
    if package is not None and not is_installed(package):
        pytest.skip(f"{package} is not installed")
    if name == "flash_attn_3" and not is_hopper():
        pytest.skip("flash-attn 3 is for Hopper chips")
    monkeypatch.setenv("MMBERT_ATTENTION", name)
    lengths = (*LENGTHS, 1024, 5)
    tokens = sum(lengths)
    qkv = torch.randn(tokens, 3, 2, 64, device="cuda").to(dtype)
    for layout in (torch.Tensor.contiguous, layouts.transposed, layouts.apart):
        compare(
            lambda qkv: kernels.attention(
                qkv, cumulative(lengths, 3, "cuda"), 1024, window, causal=causal
            ),
            lambda qkv: attention.formula(qkv, lengths, window, causal=causal),
            (layout(qkv),),
            (torch.randn(tokens, 2, 64, device="cuda"),),
            roundings=8,
        )
        compare(
            lambda qkv: kernels.rotary_attention(
                qkv, cumulative(lengths, 3, "cuda"), 1024, window, 160_000.0, causal=causal
            ),
            lambda qkv: attention.formula(
                rotary.formula(qkv, lengths, 160_000.0), lengths, window, causal=causal
            ),
            (layout(qkv),),
            (torch.randn(tokens, 2, 64, device="cuda"),),
            roundings=16,
        )
    assert kernels.attention(qkv[:0], cumulative((0,), 0, "cuda"), 0, window).shape[0] == 0
