"""Recomputation changes memory, not results."""

import pytest
import torch
from torch import Tensor

from tests.support.tiny_models import BASES, random_row, tiny_config, tiny_model


def losses_and_gradients(recompute: str, dtype: torch.dtype) -> tuple[Tensor, dict[str, Tensor]]:
    model = tiny_model(tiny_config(recompute=recompute)).to(dtype)
    losses = model(random_row(), rotary_bases=BASES, dropout_seed=3)
    losses.sum().backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert len(gradients) == len(list(model.parameters()))
    return losses.detach(), gradients


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_losses_and_gradients_are_bit_for_bit_the_same(recompute: str, dtype: torch.dtype) -> None:
    kept_losses, kept = losses_and_gradients("none", dtype)
    losses, gradients = losses_and_gradients(recompute, dtype)
    assert torch.equal(losses, kept_losses)
    for name, gradient in gradients.items():
        assert torch.equal(gradient, kept[name]), name


def test_evaluation_does_not_recompute() -> None:
    row = random_row()
    with torch.no_grad():
        full, none = (
            tiny_model(tiny_config(recompute=recompute)).hidden_states(row, rotary_bases=BASES)
            for recompute in ("full", "none")
        )
    assert torch.equal(full, none)
