"""Triton kernel of rotary position embedding: long contexts, in-place memory, three gradients."""

import pytest
import torch

import mmbert_kernels as kernels
from mmbert_kernels.rotary_embedding.rotary import rotary_unpacked
from tests.kernels import layouts
from tests.kernels.case import LENGTHS, cumulative
from tests.kernels.cases import rotary
from tests.kernels.comparison import assert_close, compare
from tests.kernels.on_triton import DEVICE, DTYPES, INTERPRETED, USE_TRITON, randn

TOKENS = sum(LENGTHS)
pytestmark = [USE_TRITON, *([] if INTERPRETED else [pytest.mark.gpu])]


def test_rotary_up_to_the_longest_context() -> None:
    """The rounding error of an angle at position 8,191 is 8,192 times that at position 1. The
    interpreter, at some 200 tokens per second, runs a quarter of that."""
    lengths = (1, 2048, 33) if INTERPRETED else (1, 8192, 1024)
    compare(
        lambda qkv: kernels.rotary(qkv, cumulative(lengths, 0, str(DEVICE)), 160_000.0),
        lambda qkv: rotary.formula(qkv, lengths, 160_000.0),
        (randn(sum(lengths), 3, 1, 8),),
        (randn(sum(lengths), 3, 1, 8),),
        roundings=max(lengths),
    )


def test_rotary_finds_documents_behind_empty_ones() -> None:
    lengths = (0, 5, 0, 0, 1, 90, 0)
    compare(
        lambda qkv: kernels.rotary(qkv, cumulative(lengths, 9, str(DEVICE)), 10_000.0),
        lambda qkv: rotary.formula(qkv, lengths, 10_000.0),
        (randn(96, 3, 1, 16),),
        (randn(96, 3, 1, 16),),
        roundings=256,
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_rotary_works_in_place_on_what_is_given_away(dtype: torch.dtype) -> None:
    cu_seqlens = cumulative(LENGTHS, 2, str(DEVICE))
    x = randn(TOKENS, 3 * 2 * 16, dtype=dtype).requires_grad_()
    linear = x + 0.0  # as in the model: a view of a linear's output
    qkv = linear.view(TOKENS, 3, 2, 16)
    before = qkv.detach().clone()
    rotated = kernels.rotary(qkv, cu_seqlens, 10_000.0)
    assert rotated.data_ptr() == linear.data_ptr()
    assert torch.equal(rotated[:, 2], before[:, 2])
    roundings = 256 if dtype == torch.float32 else 2
    assert_close("rotated", rotated, rotary.formula(before, LENGTHS, 10_000.0), roundings)
    upstream = randn(TOKENS, 3, 2, 16, dtype=dtype)
    given = upstream.clone()
    (gradient,) = torch.autograd.grad(rotated, x, given)
    assert gradient.data_ptr() == given.data_ptr()
    true = before.double().requires_grad_()
    rotary.formula(true, LENGTHS, 10_000.0).backward(upstream.double())
    assert_close("gradient", gradient.view_as(true), true.grad, roundings)


@pytest.mark.parametrize("heads", [1, 2, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rotary_brings_three_gradients_together(dtype: torch.dtype, heads: int) -> None:
    """Each of any layout; values between their elements are not read, and they are not modified."""
    cu_seqlens, size = cumulative(LENGTHS, 2, str(DEVICE)), 16
    roundings = 256 if dtype == torch.float32 else 2
    x = randn(TOKENS, 3 * heads * size, dtype=dtype).requires_grad_()
    linear = x + 0.0
    before = linear.detach().clone().view(TOKENS, 3, heads, size)
    parts = rotary_unpacked(linear.view(TOKENS, 3, heads, size), cu_seqlens, 10_000.0)
    assert parts[0].data_ptr() == linear.data_ptr()
    true = before.double().requires_grad_()
    expected = rotary.formula(true, LENGTHS, 10_000.0)
    for part, whole in zip(parts, expected.unbind(1), strict=True):
        assert_close("part", part.detach(), whole.detach(), roundings)
    upstream = randn(TOKENS, 3, heads, size, dtype=dtype)
    plain = [part.contiguous() for part in upstream.unbind(1)]
    given = [plain[0], layouts.transposed(plain[1]), layouts.apart(plain[2])]
    (gradient,) = torch.autograd.grad(parts, x, given)
    expected.backward(upstream.double())
    assert true.grad is not None
    assert_close("gradient", gradient.view_as(true), true.grad, roundings)
    for left, right in zip(given, plain, strict=True):
        assert torch.equal(left, right)


def test_rotary_needs_no_gradient_of_every_part() -> None:
    qkv = randn(TOKENS, 3, 1, 8).requires_grad_()
    _, key, _ = rotary_unpacked(qkv, cumulative(LENGTHS, 2, str(DEVICE)), 10_000.0)
    (gradient,) = torch.autograd.grad(key.square().sum() / 2, qkv)
    assert_close("gradient", gradient[:, 1], qkv.detach()[:, 1].double(), 64)
    assert (gradient[:, ::2] == 0).all()


def test_rotary_leaves_parameters_as_they_are() -> None:
    leaf = randn(TOKENS, 3, 1, 16).requires_grad_()
    before = leaf.detach().clone()
    kernels.rotary(leaf, cumulative(LENGTHS, 0, str(DEVICE)), 1e4).sum().backward()
    assert torch.equal(leaf.detach(), before)
    shared = torch.ones(1, 3, 1, 16, device=DEVICE).expand(TOKENS, 3, 1, 16)
    rotated = kernels.rotary(shared, cumulative(LENGTHS, 0, str(DEVICE)), 1e4)
    assert_close("shared", rotated, rotary.formula(shared, LENGTHS, 1e4), 256)
    assert (shared == 1).all()
