"""On a GPU packed models compute what the unpacked ones do, in every precision."""

import pytest
import torch

import mmbert
from tests.support.live_models import (
    KINDS,
    LENGTHS,
    MASKED_LM,
    SEQUENCE,
    TOKENS,
    live_model,
    padded,
    with_labels,
)

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("precision", ["float32", "autocast", "bfloat16"])
@pytest.mark.parametrize("lengths", ["equal", "mixed"])
@pytest.mark.parametrize("kind", KINDS)
def test_packed_is_as_unpacked(kind: str, lengths: str, precision: str) -> None:
    batch = padded(LENGTHS[lengths])
    if kind in (MASKED_LM, SEQUENCE, TOKENS):
        batch = with_labels(kind, batch)
    model = live_model(kind).to("cuda", torch.bfloat16 if precision == "bfloat16" else None)
    with torch.autocast("cuda", torch.bfloat16, enabled=precision == "autocast"):
        mmbert.pack(model, validate=batch)
