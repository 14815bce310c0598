"""The linear cross-entropy on a CPU: chunks and blocks, dtypes, upstream gradients."""

import importlib

import pytest
import torch

import mmbert_kernels as kernels
from tests.kernels.cases import linear_cross_entropy
from tests.kernels.comparison import compare

pytestmark = pytest.mark.usefixtures("poisoned_memory")


def test_losses_and_their_sum_are_float32_for_bfloat16_arguments() -> None:
    """In bfloat16 the losses would have steps of 1/16 here, and their sum would stop growing."""
    hidden = torch.randn(512, 8, dtype=torch.bfloat16)
    weight, bias = torch.zeros(5000, 8, dtype=torch.bfloat16), torch.zeros(5000).bfloat16()
    losses = kernels.linear_cross_entropy(hidden, weight, bias, torch.arange(512), chunk=8)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, torch.full((512,), 5000.0).log(), rtol=1e-4, atol=0)


def test_the_weight_gradient_can_be_had_in_float32() -> None:
    """It accumulates, and rounded to bfloat16 equals autograd's gradient."""
    hidden = torch.randn(50, 16).bfloat16().requires_grad_()
    weight, bias = torch.randn(40, 16).bfloat16().requires_grad_(), torch.zeros(40).bfloat16()
    labels = torch.randint(0, 40, (50,))
    kernels.linear_cross_entropy(hidden, weight, bias, labels, chunk=20).sum().mul(0.25).backward()
    total = torch.zeros(40, 16)
    again = weight.detach().clone().requires_grad_()
    for _ in range(2):
        losses = kernels.linear_cross_entropy(
            hidden, again, bias, labels, chunk=20, main_grad=total
        )
        losses.sum().mul(0.25).backward()
    assert again.grad is None
    assert weight.grad is not None
    assert torch.equal((total / 2).bfloat16(), weight.grad)
    assert (total.bfloat16() != total).float().mean() > 0.9
    with pytest.raises(ValueError, match=r"main_grad must be float32\[40, 16\]"):
        kernels.linear_cross_entropy(hidden, weight, bias, labels, main_grad=total.half())


def test_only_one_gradient_for_all_losses() -> None:
    hidden, weight = torch.randn(4, 8, requires_grad=True), torch.randn(11, 8)
    losses = kernels.linear_cross_entropy(hidden, weight, torch.zeros(11), torch.arange(4))
    with pytest.raises(ValueError, match="pass per-row factors as `weights`"):
        (losses * torch.tensor([1.0, 1.0, 2.0, 1.0])).sum().backward()


def test_the_gradient_of_rows_without_weight_does_not_matter() -> None:
    hidden, weight = torch.randn(4, 8, requires_grad=True), torch.randn(11, 8)
    weights = torch.tensor([1.0, 0.0, 1.0, 1.0])
    losses = kernels.linear_cross_entropy(
        hidden, weight, torch.zeros(11), torch.arange(4), weights=weights
    )
    (losses * weights).sum().backward()
    assert hidden.grad is not None
    assert not hidden.grad[1].any()
    assert hidden.grad[0].any()


def test_no_chunk_is_larger_than_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    rows_seen = []
    module = importlib.import_module("mmbert_kernels.cross_entropy.linear_cross_entropy")
    true_chunk = module.chunk_in_blocks

    def spy(chunk, weight, *arguments):
        rows_seen.append((len(chunk.hidden), len(weight)))
        return true_chunk(chunk, weight, *arguments)

    monkeypatch.setattr(module, "chunk_in_blocks", spy)
    kernels.linear_cross_entropy(
        torch.randn(25, 8), torch.randn(11, 8), torch.zeros(11), torch.zeros(25).long(), chunk=10
    )
    assert rows_seen == [(10, 11), (10, 11), (5, 11)]


def test_linear_cross_entropy_in_blocks_of_the_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 64 tokens, the last of 5, with maxima that increase from block to block."""
    blocks = importlib.import_module("mmbert_kernels.cross_entropy.cpu_blocks")
    monkeypatch.setattr(blocks, "BLOCK_LOGITS", 1)
    hidden, weight = torch.randn(20, 16), torch.randn(197, 16)
    weight *= torch.linspace(0.1, 8, 197)[:, None]
    bias, labels = torch.randn(197), torch.randint(0, 197, (20,))
    labels[:3] = torch.tensor([0, 64, 196])
    compare(
        lambda h, w, b: kernels.linear_cross_entropy(h, w, b, labels, chunk=7),
        lambda h, w, b: linear_cross_entropy.formula(h, w, b, labels, torch.ones(20)),
        (hidden, weight, bias),
        (torch.full((20,), 0.375),),
        roundings=96,
    )


def test_gradients_are_given_once() -> None:
    hidden, weight = torch.randn(4, 8, requires_grad=True), torch.randn(11, 8)
    losses = kernels.linear_cross_entropy(hidden, weight, torch.zeros(11), torch.arange(4))
    losses.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="backward may run only once"):
        losses.sum().backward()
