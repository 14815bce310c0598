"""In half precision a packed model is as exact as unpacked."""

import copy

import pytest
import torch
from torch import Tensor

import mmbert
from mmbert.hub.live.validation import ERROR_FACTOR, _compare_errors, measure
from tests.support.live_models import (
    ENCODER,
    LENGTHS,
    MASKED_LM,
    TOKENS,
    difference,
    live_model,
    padded,
    with_labels,
)


def mixed(kind: str) -> dict[str, Tensor]:
    return with_labels(kind, padded(LENGTHS["mixed"]))


@pytest.mark.parametrize("kind", [ENCODER, MASKED_LM, pytest.param(TOKENS, marks=pytest.mark.long)])
@pytest.mark.parametrize("how", ["autocast", "weights"])
def test_bfloat16_is_as_exact_as_unpacked(kind: str, how: str) -> None:
    model = live_model(kind)
    exact = measure(model, mixed(kind))
    if how == "weights":
        mmbert.pack(model)
        model.to(torch.bfloat16)
        exact = measure(copy.deepcopy(mmbert.unpack(copy.deepcopy(model))).float(), mixed(kind))
        mmbert.unpack(model)
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        unpacked = measure(model, mixed(kind))
        packed = measure(mmbert.pack(model), mixed(kind))
    for name, value in unpacked.outputs.items():
        assert packed.outputs[name].dtype == value.dtype
    assert packed.loss.dtype == unpacked.loss.dtype
    assert ERROR_FACTOR == 1.5
    _compare_errors(packed, unpacked, exact, None)


def test_autocast_to_float16_with_a_scaled_loss() -> None:
    model, batch = live_model(MASKED_LM), mixed(MASKED_LM)
    scale = 2.0**12
    found = {}
    for packed in (False, True):
        if packed:
            mmbert.pack(model)
        with torch.autocast("cpu", torch.float16):
            loss = model.train()(**batch).loss
        model.zero_grad()
        (loss * scale).backward()
        found[packed] = model.head.dense.weight.grad.clone()
    assert difference(found[True], found[False]) < 2e-2
