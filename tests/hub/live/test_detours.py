"""Calls that the packed way cannot compute go the unpacked way, logged once by name."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import mmbert
from mmbert.errors import ModelError
from tests.support.live_models import (
    ENCODER,
    KINDS,
    LENGTHS,
    MASKED_LM,
    QUESTIONS,
    SEQUENCE,
    TOKENS,
    assert_same,
    live_model,
    padded,
    train,
    with_labels,
)


def _holes(batch: dict[str, Tensor]) -> None:
    batch["attention_mask"][1, 2] = 0


def _positions(batch: dict[str, Tensor]) -> None:
    ids = batch["input_ids"]
    batch["position_ids"] = torch.arange(ids.shape[1]).expand_as(ids) * 2


DETOURS: dict[Callable[[dict[str, Tensor]], None], str] = {
    _holes: "an attention mask with holes",
    _positions: "the argument position_ids",
}


@pytest.mark.parametrize("kind", [ENCODER, MASKED_LM, SEQUENCE, TOKENS])
@pytest.mark.parametrize("change", DETOURS, ids=lambda change: change.__name__.strip("_"))
def test_results_and_log(
    kind: str, change: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    batch = padded(LENGTHS["pairs"])
    change(batch)
    batch = with_labels(kind, batch)
    expected = train(live_model(kind), batch)
    model = mmbert.pack(live_model(kind))
    with caplog.at_level(logging.WARNING, "mmbert.pack"):
        assert_same(train(model, batch), expected, loss=0, output=0, gradient=0)
    (record,) = caplog.records  # once, for two calls
    assert DETOURS[change] in record.message
    assert "goes the unpacked way" in record.message


def outputs(model: Any, **batch: Any) -> Tensor:
    with torch.no_grad():
        return model.eval()(**batch)[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda batch: {"output_attentions": True}, "output_attentions"),
        (
            lambda batch: {"attention_mask": batch["attention_mask"][:, None, None, :].bool()},
            "an attention mask of 4 dimensions",
        ),
        (
            lambda batch: {"attention_mask": batch["attention_mask"] * 0.5},
            "an attention mask with other values than 0 and 1",
        ),
    ],
)
def test_other_calls(
    change: Callable[..., dict[str, Any]], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    batch = padded([9, 4])
    batch |= change(batch)
    model = live_model(attention="eager")
    try:
        expected = outputs(model, **batch)
    except Exception as error:  # older versions take no such mask; neither does the packed model
        with pytest.raises(type(error)):
            outputs(mmbert.pack(model), **batch)
        return
    found = outputs(mmbert.pack(model), **batch)
    assert torch.equal(found, expected)
    assert reason in caplog.text


def test_attention_outputs_are_returned() -> None:
    model = mmbert.pack(live_model(MASKED_LM, attention="eager"))
    found = model(**padded([9, 4]), output_attentions=True)
    assert len(found.attentions) == 4
    assert model.forward.detours.counts == {"output_attentions": 1}


@pytest.mark.parametrize("kind", [MASKED_LM, TOKENS])
def test_labels_at_padding(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    batch = with_labels(kind, padded([9, 4]))
    batch["labels"][1, 8] = 1
    expected = train(live_model(kind), batch)
    assert_same(train(mmbert.pack(live_model(kind)), batch), expected)
    assert "labels at padding other than -100" in caplog.text


@pytest.mark.skipif(QUESTIONS not in KINDS, reason="transformers before 4.51 has none")
def test_loss_of_answers_over_padding(caplog: pytest.LogCaptureFixture) -> None:
    batch = with_labels(QUESTIONS, padded([9, 4]))
    expected = train(live_model(QUESTIONS), batch)
    assert_same(train(mmbert.pack(live_model(QUESTIONS)), batch), expected)
    assert "the loss of question answering, which counts the padding" in caplog.text


def test_a_first_position_that_is_padding(caplog: pytest.LogCaptureFixture) -> None:
    batch = with_labels(SEQUENCE, padded([9, 4], left=True))
    expected = train(live_model(SEQUENCE, classifier_pooling="cls"), batch)
    model = mmbert.pack(live_model(SEQUENCE, classifier_pooling="cls"))
    assert_same(train(model, batch), expected)
    assert "a classifier of the first position" in caplog.text


def test_a_loss_function_of_ones_own(caplog: pytest.LogCaptureFixture) -> None:
    def loss(logits: Tensor, labels: Tensor, **_: Any) -> Tensor:
        assert logits.shape[:2] == labels.shape  # as documented by transformers
        return logits.square().mean()

    found = []
    for is_packed in (False, True):
        model = live_model(MASKED_LM)
        if not hasattr(type(model), "loss_function"):
            pytest.skip("no loss functions of one's own in this version")
        try:
            model.loss_function = loss
        except AttributeError:
            pytest.skip("no loss functions of one's own in this version")
        if is_packed:
            mmbert.pack(model)
        found.append(float(model.train()(**with_labels(MASKED_LM, padded([9, 4]))).loss.detach()))
    assert found[0] == found[1]
    assert "a loss function of its own" in caplog.text


def test_mistakes_give_the_errors_of_transformers() -> None:
    model = mmbert.pack(live_model())
    with pytest.raises(ValueError, match="exactly one of input_ids or inputs_embeds"):
        model()


def test_validate_says_that_its_batch_goes_the_unpacked_way() -> None:
    batch, model = padded([9, 4]), live_model()
    batch["attention_mask"][0, 3] = 0
    with pytest.raises(ModelError, match="goes the unpacked way, for an attention mask with holes"):
        mmbert.pack(model, validate=batch)
    assert "forward" not in model.__dict__
