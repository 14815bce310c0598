"""Attention on a GPU in float32: values, linear memory, choice by dtype, a single warning."""

import logging
import sys

import pytest
import torch

import mmbert_kernels as kernels
from mmbert_kernels.support.dispatch import backend
from tests.kernels.case import LENGTHS, cumulative
from tests.kernels.cases import attention
from tests.kernels.comparison import compare
from tests.support.fake_gpu import PeakMemory, fake_gpu, on_meta_device
from tests.support.packed_rows import packed_rows
from tests.support.tiny_models import BASES, tiny_config

BLOCKED = "mmbert_kernels.packed_attention.cpu_blocked"


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the GPU's float32 backend on the CPU, with pieces small enough to iterate every loop."""
    attention = sys.modules["mmbert_kernels.packed_attention.attention"]
    monkeypatch.setattr(attention, "backend", lambda *_: "plain")
    monkeypatch.setattr("mmbert_kernels.packed_attention.gpu_plain.QUERIES", 48)
    monkeypatch.setattr(f"{BLOCKED}.PLAIN_BLOCKS", 2)
    monkeypatch.setattr(f"{BLOCKED}.SHARED_PLAIN_TOKENS", 100)


@pytest.mark.parametrize("window", [None, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_it_is_the_formula(plain: None, window: int | None, dtype: torch.dtype) -> None:
    lengths = (*LENGTHS, 7, 130, 2)
    tokens = sum(lengths)
    compare(
        lambda qkv: kernels.attention(qkv, cumulative(lengths, padding=4), 130, window),
        lambda qkv: attention.formula(qkv, lengths, window),
        (torch.randn(tokens, 3, 2, 16).to(dtype),),
        (torch.randn(tokens, 2, 16),),
        # Sums of a hundred terms by PyTorch; narrow dtypes are rounded at the end, and where the
        # gradients of up to three blocks are added.
        roundings=4 if dtype == torch.bfloat16 else 16,
    )


def largest_memory(tokens: int) -> int:
    """Return the peak bytes, without weights, of a float32 row of one document on a GPU."""
    (row,) = packed_rows(1, tokens=tokens, context=tokens, mask_ratio=0.3, vocabulary=131)
    config = tiny_config(hidden_size=256, local_window=128)
    with (
        fake_gpu(lambda *_, **__: None),
        pytest.MonkeyPatch.context() as patch,
        PeakMemory() as memory,
    ):
        # Replaces the host's read: meta tensors have no lengths.
        patch.setattr(f"{BLOCKED}.host_ends", lambda _: [0, tokens])
        model, batch = on_meta_device(config, row, torch.float32)
        weights = memory.alive
        (model(batch, rotary_bases=BASES, dropout_seed=3).sum() * 0.25).backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
    return memory.largest - weights


def test_the_largest_memory_is_linear_in_the_tokens() -> None:
    """If all scores of a document existed at once, doubling the tokens would quadruple them."""
    pytest.importorskip("triton")
    at_1024, at_2048, at_4096 = (largest_memory(tokens) for tokens in (1024, 2048, 4096))
    print(f"{at_1024 / 2**20:.1f}, {at_2048 / 2**20:.1f}, {at_4096 / 2**20:.1f} MiB")
    # 10% for tensors independent of the number of tokens
    assert 1.8 <= at_2048 / at_1024 <= 2.2
    assert 1.8 <= at_4096 / at_2048 <= 2.2


def test_it_is_chosen_by_type_and_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("triton")
    qkv = torch.empty(64, 3, 2, 16, device="meta")
    cu_seqlens = cumulative((64,)).to("meta")
    sys.modules["mmbert_kernels.packed_attention.attention"]._warn_of_plain.cache_clear()
    with (
        fake_gpu(lambda *_, **__: None),
        caplog.at_level(logging.INFO, logger="mmbert.kernels"),
    ):
        for _ in range(2):
            for dtype in (torch.float32, torch.bfloat16):
                kernels.attention(qkv.to(dtype), cu_seqlens, 64, 16)
    said = [message for message in caplog.messages if "attention" in message]
    assert len(said) == 3
    assert said[0].startswith("attention in float32 on meta: plain")
    assert "waits" in said[1]
    assert said[2].startswith("attention in bfloat16 on meta: varlen")


def test_a_library_for_half_types_may_still_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    """It then rejects float32 with a message that contains the remedy."""
    monkeypatch.setenv("MMBERT_ATTENTION", "varlen")
    backend.cache_clear()
    assert backend("attention", "cuda", torch.float32) == "varlen"
    backend.cache_clear()
    attention = sys.modules["mmbert_kernels.packed_attention.attention"]
    monkeypatch.setattr(attention, "backend", lambda *_: "varlen")
    with pytest.raises(ValueError, match=r"not torch\.float32; unset MMBERT_ATTENTION"):
        kernels.attention(torch.randn(8, 3, 2, 16), cumulative((8,)), 8, None)


@pytest.mark.gpu
@pytest.mark.parametrize("window", [None, 128])
def test_on_a_gpu(window: int | None) -> None:
    """Without overrides: float32 values, and linear memory up to a context of 8,192."""
    lengths = (*LENGTHS, 1024, 5)
    compare(
        lambda qkv: kernels.attention(qkv, cumulative(lengths, 3, "cuda"), 1024, window),
        lambda qkv: attention.formula(qkv, lengths, window),
        (torch.randn(sum(lengths), 3, 2, 64, device="cuda"),),
        (torch.randn(sum(lengths), 2, 64, device="cuda"),),
        roundings=32,  # sums of a thousand terms
    )
    largest = []
    for tokens in (2048, 4096, 8192):
        qkv = torch.randn(tokens, 3, 12, 64, device="cuda", requires_grad=True)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        kernels.attention(qkv, cumulative((tokens,), 3, "cuda"), tokens, window).sum().backward()
        largest.append(torch.cuda.max_memory_allocated() - before)
    # Window blocks are processed 4,096 tokens at a time, so twice the tokens need less than twice.
    assert largest[1] < 2.2 * largest[0]
    assert largest[2] < 2.2 * largest[1]
