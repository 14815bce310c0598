"""A packed model computes what it computes unpacked, in every class and at all lengths."""

import copy

import pytest
import torch

import mmbert
from tests.support.live_models import (
    ENCODER,
    KINDS,
    LENGTHS,
    MASKED_LM,
    QUESTIONS,
    SEQUENCE,
    TOKENS,
    assert_same,
    difference,
    live_model,
    padded,
    train,
    with_labels,
)


@pytest.mark.parametrize("lengths", list(LENGTHS))
@pytest.mark.parametrize("kind", KINDS)
def test_loss_outputs_and_gradients_in_float32(kind: str, lengths: str) -> None:
    model, batch = live_model(kind), padded(LENGTHS[lengths])
    if kind != QUESTIONS or lengths == "equal":  # its loss over padding goes the unpacked way
        batch = with_labels(kind, batch)
    expected = train(model, batch)
    mmbert.pack(model)
    assert_same(train(model, batch), expected)
    assert_nothing_went_unpacked(model)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_formulas_in_float64(kind: str) -> None:
    model, batch = live_model(kind).double(), padded(LENGTHS["mixed"])
    if kind != QUESTIONS:
        batch = with_labels(kind, batch)
    expected = train(model, batch)
    mmbert.pack(model)
    # Rotary tables are float32 in both; transformers computes its angles in another order.
    assert_same(train(model, batch), expected, loss=1e-7, output=1e-6, gradient=1e-6)


def test_whatever_attention_the_model_has() -> None:
    """Here eager; in other tests sdpa."""
    model, batch = live_model(attention="eager"), padded(LENGTHS["mixed"])
    expected = train(model, batch)
    assert_same(train(mmbert.pack(model), batch), expected)


def test_padding_is_0_and_shapes_are_the_batchs() -> None:
    batch = padded([4, 9])
    padding = ~batch["attention_mask"].bool()
    with torch.no_grad():
        hidden = mmbert.pack(live_model())(**batch).last_hidden_state
        logits = mmbert.pack(live_model(MASKED_LM)).eval()(**batch).logits
    assert hidden.shape == (2, 9, 64)
    assert logits.shape == (2, 9, 200)
    assert not hidden[padding].any()
    assert not logits[padding].any()
    assert hidden[~padding].any()


def test_no_padding_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    linear = torch.Tensor.matmul
    from mmbert.parallel import linear as ours

    def counting(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        rows.append(left.shape[0])
        return linear(left, right)

    monkeypatch.setattr(ours, "matmul", counting)
    with torch.no_grad():
        mmbert.pack(live_model())(**padded([50, 3, 7]))
    assert set(rows) == {60}


@pytest.mark.parametrize("kind", [ENCODER, MASKED_LM, SEQUENCE, TOKENS])
def test_left_padding(kind: str) -> None:
    model = live_model(kind)
    batch = with_labels(kind, padded(LENGTHS["mixed"], left=True))
    expected = train(model, batch)
    mmbert.pack(model)
    assert_same(train(model, batch), expected)
    assert_nothing_went_unpacked(model)


def test_without_a_mask_and_by_position() -> None:
    model, ids = live_model(), padded([12, 12])["input_ids"]
    with torch.no_grad():
        expected = model(ids).last_hidden_state
        found = mmbert.pack(model)(ids).last_hidden_state
        by_position = model(ids, torch.ones_like(ids)).last_hidden_state
    assert difference(found, expected) <= 2e-6
    assert torch.equal(by_position, found)


def test_a_text_of_padding_only_between_others() -> None:
    model, batch = live_model(), padded([9, 5, 7])
    batch["attention_mask"][1] = 0
    expected = train(model, batch)
    assert_same(train(mmbert.pack(model), batch), expected)


def test_the_padding_token_itself_has_no_gradient_from_look_ups() -> None:
    model, batch = live_model(), padded([9, 9])
    batch["input_ids"][:, 3:5] = 0  # real tokens with the padding's id
    expected = train(model, batch)
    packed = train(mmbert.pack(model), batch)
    assert_same(packed, expected)
    table = packed.gradients["embeddings.tok_embeddings.weight"]
    assert not table[0].any()
    assert table.any()


def test_evaluation_of_a_masked_model_has_logits_and_training_has_none() -> None:
    model = live_model(MASKED_LM)
    batch = with_labels(MASKED_LM, padded(LENGTHS["pairs"]))
    mmbert.pack(model)
    assert model.train()(**batch).logits is None
    assert len(model(**batch, return_dict=False)) == 1
    del batch["labels"]
    logits = model(**batch).logits
    assert logits.requires_grad  # for losses of one's own
    assert model.eval()(**batch).logits.shape == logits.shape


@pytest.mark.parametrize("sparse", [False, True])
def test_masked_evaluation_as_unpacked(sparse: bool) -> None:
    model = live_model(MASKED_LM, sparse_prediction=sparse).eval()
    batch = with_labels(MASKED_LM, padded(LENGTHS["mixed"]))
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        expected = model(**batch)
        found = mmbert.pack(model)(**batch)
    assert difference(found.loss, expected.loss) <= 1e-6
    assert found.logits.shape == expected.logits.shape
    if not sparse:
        found.logits, expected.logits = found.logits[real], expected.logits[real]
    assert difference(found.logits, expected.logits) <= 2e-6


def test_a_classifier_of_the_first_position() -> None:
    model = live_model(SEQUENCE, classifier_pooling="cls")
    for left in (False, True):
        batch = with_labels(SEQUENCE, padded(LENGTHS["pairs"], left=left))
        expected = train(model, batch)
        assert_same(train(mmbert.pack(copy.deepcopy(model)), batch), expected)


def assert_nothing_went_unpacked(model: torch.nn.Module) -> None:
    for module in model.modules():
        forward = module.__dict__.get("forward")
        if forward is not None:
            assert not forward.detours.counts
