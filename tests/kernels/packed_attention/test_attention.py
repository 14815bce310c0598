"""Attention on a CPU: windows, rows of any length, long documents, isolation of documents."""

import pytest
import torch

import mmbert_kernels as kernels
from mmbert_kernels.support.dispatch import backend
from tests.kernels.case import LENGTHS, cumulative
from tests.kernels.cases import attention
from tests.kernels.comparison import compare

DTYPES = (torch.float32, torch.bfloat16, torch.float64)
TOKENS = sum(LENGTHS)
pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.mark.parametrize("window", [None, 2, 16, 128, 1024])
@pytest.mark.parametrize("dtype", DTYPES)
def test_attention(dtype: torch.dtype, window: int | None) -> None:
    lengths = (*LENGTHS, 5, 1, 40)
    qkv = torch.randn(sum(lengths), 3, 2, 16, dtype=dtype)
    compare(
        lambda qkv: kernels.attention(qkv, cumulative(lengths, padding=4), 129, window),
        lambda qkv: attention.formula(qkv, lengths, window),
        (qkv,),
        (torch.randn(sum(lengths), 2, 16),),
        roundings=48,
    )


@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 127, 128, 129, 191, 192, 193, 700])
def test_attention_in_a_window_over_rows_of_any_length(tokens: int) -> None:
    lengths = (tokens,)
    qkv = torch.randn(tokens, 3, 1, 16)
    compare(
        lambda qkv: kernels.attention(qkv, cumulative(lengths), tokens, 128),
        lambda qkv: attention.formula(qkv, lengths, 128),
        (qkv,),
        (torch.randn(tokens, 1, 16),),
        roundings=48,
    )


@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
def test_attention_over_long_documents(capability: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents long enough for several blocks of queries, between ones that share a call.

    By PyTorch's kernel and by products, which processors with 512-bit vectors take.
    """
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    lengths = (30, 5, 1100, 7, 300)
    qkv = torch.randn(sum(lengths), 3, 2, 16) * 2
    compare(
        lambda qkv: kernels.attention(qkv, cumulative(lengths), 1100, None),
        lambda qkv: attention.formula(qkv, lengths, None),
        (qkv,),
        (torch.randn(sum(lengths), 2, 16),),
        roundings=64,
    )


def test_documents_do_not_see_each_other() -> None:
    """Exactly: another document's values change no bit."""
    qkv = torch.randn(TOKENS, 3, 2, 16)
    changed = qkv.clone()
    changed[1 + 63 :] = torch.randn(TOKENS - 64, 3, 2, 16) * 100
    for window in (None, 128):
        outputs = [
            kernels.attention(each, cumulative(LENGTHS), 129, window) for each in (qkv, changed)
        ]
        assert torch.equal(outputs[0][:64], outputs[1][:64])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_cpu_attends_in_blocks(dtype: torch.dtype) -> None:
    assert backend("attention", "cpu", dtype) == "blocked"
    assert kernels.backends("cpu")["attention"] == "blocked"
