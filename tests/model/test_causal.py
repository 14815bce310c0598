"""The causal forward pass against a decoder in plain float64, its isolation, and its FLOPs."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mmbert.model.flops import flops_by_part, training_flops
from mmbert.model.modernbert import MaskedLanguageModel
from mmbert.planner import flops_per_token
from mmbert.recipe import ModelSettings
from tests.support.decoder import decoder_logits
from tests.support.tiny_models import BASES, random_row, tiny_config, tiny_model

CONFIG = tiny_config()
ROW = random_row()
TOKENS = len(ROW.input_ids)


def decoder_losses(weights: dict[str, Tensor]) -> Tensor:
    """Compute the weighted losses [K] of ROW, document by document."""
    logits = torch.cat(
        [
            decoder_logits(weights, CONFIG, BASES, ROW.input_ids[start:end])
            for start, end in pairwise(ROW.cu_seqlens.tolist())
            if end > start
        ]
    )
    losses = functional.cross_entropy(logits[ROW.masked_positions], ROW.labels, reduction="none")
    return losses * ROW.weights


def double_weights(model: MaskedLanguageModel) -> dict[str, Tensor]:
    return {n: p.detach().double().requires_grad_() for n, p in model.named_parameters()}


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_losses_and_gradients_are_a_decoders(recompute: str) -> None:
    """Float32 sums against float64: 1e-5 of the largest loss and of each gradient's norm."""
    model = tiny_model(replace(CONFIG, recompute=recompute, attention_output_dropout=0.0))
    weights = double_weights(model)
    expected = decoder_losses(weights)
    losses = model(ROW, rotary_bases=BASES, dropout_seed=3, causal=True)
    torch.testing.assert_close(losses.double(), expected, rtol=1e-5, atol=1e-5)
    expected.sum().backward()
    losses.sum().backward()
    for name, parameter in model.named_parameters():
        wanted = weights[name].grad
        assert wanted is not None
        assert parameter.grad is not None
        error = (parameter.grad.double() - wanted).norm() / wanted.norm()
        assert error < 1e-5, (name, error)
    masked = model(ROW, rotary_bases=BASES, dropout_seed=3)
    assert (masked - losses).abs().max() > 0.1


def test_a_token_changes_nothing_before_it() -> None:
    """To the bit, of all logits before it; and nothing in other documents."""
    model = tiny_model(CONFIG)
    ends = ROW.cu_seqlens.tolist()
    before = model.logits(ROW, rotary_bases=BASES, all_tokens=True, causal=True)
    for place in (0, 44, 45, 60, 111, TOKENS - 1):
        ids = ROW.input_ids.clone()
        ids[place] = (ids[place] + 1) % 131
        changed = replace(ROW, input_ids=ids)
        after = model.logits(changed, rotary_bases=BASES, all_tokens=True, causal=True)
        end = next(end for end in ends if end > place)
        assert torch.equal(before[:place], after[:place])
        assert torch.equal(before[end:], after[end:])
        assert not torch.equal(before[place], after[place])


@pytest.mark.parametrize("window", [2, 16, 128])
def test_flops_count_every_pair(window: int) -> None:
    """The pairs of a query and a key that it attends to, counted one by one."""
    model = ModelSettings(
        hidden_size=32, intermediate_size=40, num_hidden_layers=5, num_attention_heads=4,
        local_window=window,
    )  # fmt: skip
    lengths = (1, 2, 8, 9, 10, 63, 64, 65, 66, 200)
    pairs = [(q, k) for length in lengths for q in range(length) for k in range(q + 1)]
    near = sum(q - k <= window // 2 for q, k in pairs)
    parts = flops_by_part(model, 90, lengths, 20, causal=True)
    assert parts.global_attention == 12 * 32 * 2 * len(pairs)
    assert parts.local_attention == 12 * 32 * 3 * near
    both = flops_by_part(model, 90, lengths, 20)
    assert (parts.encoder, parts.head) == (both.encoder, both.head)
    assert training_flops(model, 90, lengths, 20, causal=True) == parts.total


def test_the_planner_counts_as_much() -> None:
    """By the token-weighted mean length: exact where no document ends within half a window."""
    model = ModelSettings(
        hidden_size=32, intermediate_size=40, num_hidden_layers=5, num_attention_heads=4,
    )  # fmt: skip
    lengths = [1024, 600, 200, 130, 129, 5000]
    tokens = sum(lengths)
    mean = sum(length**2 for length in lengths) / tokens
    planned = flops_per_token(model, 90, 0.25, mean, causal=True)
    exact = flops_by_part(model, 90, lengths, 0.25 * tokens, causal=True).per(tokens)
    assert planned.global_attention == pytest.approx(exact.global_attention, rel=1e-12)
    assert planned.encoder == pytest.approx(exact.encoder, rel=1e-12)
    assert planned.head == pytest.approx(exact.head, rel=1e-12)
    # Each document's first 64 tokens attend to fewer, which the mean length has once.
    assert planned.local_attention == pytest.approx(exact.local_attention, rel=0.05)
