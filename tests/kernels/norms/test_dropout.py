"""Dropout masks: rate, independence, and dependence on nothing but seed, token and channel."""

import math

import pytest
import torch

from mmbert_kernels import Dropout, add_layer_norm
from mmbert_kernels.norms.dropout import keep_mask, split_mix

CPU = torch.device("cpu")


def kept(p: float, seed: int, tokens: int, width: int, first_token: int = 0) -> torch.Tensor:
    return keep_mask(Dropout(p, seed, first_token), tokens, width, CPU)


def test_split_mix_gives_the_published_sequence() -> None:
    """The first outputs of splitmix64's reference implementation from state 1234567."""
    assert split_mix(1234567) == 6457827717110365317
    assert split_mix(1234567 + 0x9E3779B97F4A7C15) == 3203168211198807973


def test_masks_follow_the_token_and_not_the_part_of_the_row() -> None:
    whole = kept(0.3, 5, 64, 96, first_token=10**12)
    parts = [kept(0.3, 5, 16, 96, first_token=10**12 + start) for start in range(0, 64, 16)]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, kept(0.3, 6, 64, 96, first_token=10**12))
    assert not torch.equal(whole, kept(0.3, 5, 64, 96, first_token=10**12 + 1))


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
def test_rate(p: float) -> None:
    mask = kept(p, 11, 4096, 256).double()
    std = math.sqrt(p * (1 - p) / mask.numel())
    assert abs(1 - mask.mean().item() - p) <= 4 * std + 2**-17
    # and in every channel and every token
    assert (1 - mask.mean(0) - p).abs().max() <= 5 * math.sqrt(p * (1 - p) / 4096) + 1e-9
    assert (1 - mask.mean(1) - p).abs().max() <= 5.5 * math.sqrt(p * (1 - p) / 256) + 1e-9


def test_tokens_channels_and_seeds_are_uncorrelated() -> None:
    centered = kept(0.5, 3, 2048, 128).double() * 2 - 1
    other = kept(0.5, 4, 2048, 128).double() * 2 - 1
    count = centered.numel()
    pairs = {
        "next channel": centered[:, 1:] * centered[:, :-1],
        "channel after next": centered[:, 2:] * centered[:, :-2],
        "next token": centered[1:] * centered[:-1],
        "next seed": centered * other,
        "three channels": centered[:, 2:] * centered[:, 1:-1] * centered[:, :-2],
        "square": centered[1:, 1:] * centered[:-1, 1:] * centered[1:, :-1] * centered[:-1, :-1],
    }
    for name, product in pairs.items():
        assert abs(product.mean().item()) <= 4.5 / math.sqrt(count * 0.98), name
    # every pair of channels, and every pair of tokens among the first
    channels = centered.T @ centered / len(centered)
    assert (channels - torch.eye(128)).abs().max() <= 6 / math.sqrt(len(centered))
    tokens = centered[:512] @ centered[:512].T / 128
    assert (tokens - torch.eye(512)).abs().max() <= 6 / math.sqrt(128)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_value_and_gradient(dtype: torch.dtype) -> None:
    x = torch.randn(50, 32).to(dtype).requires_grad_()
    residual = torch.randn(50, 32).to(dtype).requires_grad_()
    _, out = add_layer_norm(x, residual, torch.ones(32).to(dtype), 1e-5, Dropout(0.25, 99, 7))
    mask, scale = kept(0.25, 99, 50, 32, first_token=7), 1 / 0.75
    true = residual.double() + x.double() * mask * scale
    torch.testing.assert_close(
        out.double(), true, rtol=2**-8 if dtype == torch.bfloat16 else 1e-6, atol=1e-6
    )
    upstream = torch.randn(50, 32).to(dtype)
    out.backward(upstream)
    assert torch.equal(residual.grad, upstream)
    assert torch.equal(x.grad == 0, ~mask)
    torch.testing.assert_close(
        x.grad.double(), upstream.double() * mask * scale, rtol=2**-8, atol=1e-6
    )


def test_expected_value_is_kept() -> None:
    ones, zeros = torch.ones(4096, 64), torch.zeros(4096, 64)
    _, out = add_layer_norm(ones, zeros, torch.ones(64), 1e-5, Dropout(0.1, 1))
    mean = out.double().mean().item()
    assert abs(mean - 1) < 4 * math.sqrt(0.1 / 0.9 / ones.numel())


def test_probabilities_outside_are_refused() -> None:
    for p in (-0.1, 1.0):
        with pytest.raises(ValueError, match="p must be in"):
            Dropout(p, 0)
    with pytest.raises(ValueError, match="dropout needs an even width; got 3"):
        add_layer_norm(torch.ones(1, 3), torch.ones(1, 3), torch.ones(3), 1e-5, Dropout(0.1, 0))
