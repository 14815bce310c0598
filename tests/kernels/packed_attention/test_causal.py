"""Causal attention of the backends that run on a CPU: float64 values, gradients, no leak."""

import sys
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mmbert_kernels as kernels
from tests.kernels.case import cumulative
from tests.kernels.cases import attention
from tests.kernels.comparison import compare

BLOCKED = "mmbert_kernels.packed_attention.cpu_blocked"
BACKENDS = ("blocked", "plain", "reference")
WINDOWS = (None, 2, 16, 128)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Choose a backend, with pieces small enough that short rows iterate every loop."""
    module = sys.modules["mmbert_kernels.packed_attention.attention"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "backend", lambda *_: request.param)
        patch.setattr("mmbert_kernels.packed_attention.gpu_plain.QUERIES", 12)
        patch.setattr(f"{BLOCKED}.PLAIN_BLOCKS", 2)
        patch.setattr(f"{BLOCKED}.SHARED_PLAIN_TOKENS", 40)
        patch.setattr(f"{BLOCKED}.SHARED_CALL_TOKENS", 40)
        # The dense path of the CPU, too: two blocks of queries and a remainder in 60 tokens.
        patch.setattr(f"{BLOCKED}.MIN_TOKENS", 30)
        patch.setattr("mmbert_kernels.packed_attention.cpu_dense.QUERIES", 24)
        yield request.param


@given(
    lengths=st.lists(st.integers(1, 70), min_size=1, max_size=6),
    window=st.sampled_from(WINDOWS),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    seed=st.integers(0, 999),
)
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_it_is_the_formula(
    backend: str, lengths: list[int], window: int | None, dtype: torch.dtype, seed: int
) -> None:
    """Roundings as in test_attention.py."""
    torch.manual_seed(seed)
    documents, tokens = tuple(lengths), sum(lengths)
    compare(
        lambda qkv: kernels.attention(
            qkv, cumulative(documents, padding=3), max(lengths), window, causal=True
        ),
        lambda qkv: attention.formula(qkv, documents, window, causal=True),
        (torch.randn(tokens, 3, 2, 16).to(dtype),),
        (torch.randn(tokens, 2, 16),),
        roundings=48,
    )


def test_long_documents() -> None:
    """Several blocks of queries in the sizes of production, between documents that share a call."""
    lengths = (30, 5, 1100, 7, 300)
    tokens = sum(lengths)
    compare(
        lambda qkv: kernels.attention(qkv, cumulative(lengths), 1100, None, causal=True),
        lambda qkv: attention.formula(qkv, lengths, None, causal=True),
        (torch.randn(tokens, 3, 2, 16) * 2,),
        (torch.randn(tokens, 2, 16),),
        roundings=64,
    )


@pytest.mark.parametrize("window", WINDOWS)
def test_no_later_token_is_seen(backend: str, window: int | None) -> None:
    """Exactly: later tokens change no bit of an output, nor an output a later token's gradient."""
    lengths = (20, 66, 9)
    attend = partial(kernels.attention, max_seqlen=66, window=window, causal=True)
    torch.manual_seed(0)
    qkv = torch.randn(sum(lengths), 3, 2, 16)
    before = attend(qkv, cumulative(lengths))
    for place in (1, 19, 20, 21, 44, 50, 85, 94):
        changed = qkv.clone()
        changed[place:] = torch.randn_like(changed[place:]) * 100
        after = attend(changed, cumulative(lengths))
        assert torch.equal(before[:place], after[:place])
        assert not torch.equal(before[place], after[place])
    given = qkv.clone().requires_grad_()
    attend(given, cumulative(lengths))[:50].square().sum().backward()
    assert given.grad is not None
    assert not given.grad[50:].any()
    assert given.grad[49].any()


@pytest.mark.parametrize("window", [4, 16])
def test_the_window_reaches_half_of_it_back(backend: str, window: int) -> None:
    """Gradients of the values at one query: window // 2 tokens back, itself, and nothing ahead."""
    qkv = torch.randn(60, 3, 1, 16, requires_grad=True)
    kernels.attention(qkv, cumulative((60,)), 60, window, causal=True)[40].sum().backward()
    assert qkv.grad is not None
    seen = qkv.grad[:, 2].abs().sum(dim=(1, 2)).nonzero()[:, 0].tolist()
    assert seen == list(range(40 - window // 2, 41))
