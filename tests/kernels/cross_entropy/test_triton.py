"""Triton kernels of the linear cross-entropy: split vocabulary and very large chunks."""

import pytest
import torch

import mmbert_kernels as kernels
from tests.kernels.cross_entropy.ranks import check_ranks
from tests.kernels.on_triton import DEVICE, INTERPRETED, USE_TRITON, randn

pytestmark = [USE_TRITON, *([] if INTERPRETED else [pytest.mark.gpu])]


@pytest.mark.skipif(not INTERPRETED, reason="needs several GPUs and NCCL")
def test_linear_cross_entropy_with_the_vocabulary_split() -> None:
    check_ranks(2, 10, "triton")


@pytest.mark.skipif(INTERPRETED, reason="needs 6 GB of a GPU")
def test_a_chunk_of_more_than_two_to_the_31_logits() -> None:
    rows, words = 8448, 256_000
    labels = torch.randint(0, words, (rows,), device=DEVICE)
    arguments = [
        (randn(*shape) * scale).bfloat16()
        for shape, scale in (((rows, 64), 1.0), ((words, 64), 0.05), ((words,), 1.0))
    ]
    results = []
    for chunk in (rows, 1024):
        leaves = [argument.clone().requires_grad_() for argument in arguments]
        losses = kernels.linear_cross_entropy(*leaves, labels, chunk=chunk)
        losses.sum().backward()
        results.append([losses.detach(), *(leaf.grad for leaf in leaves)])
    for whole, parts in zip(*results, strict=True):
        torch.testing.assert_close(whole, parts, rtol=2**-6, atol=2**-6)
