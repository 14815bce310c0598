"""`validate` compares packed with unpacked on the user's batch, and leaves no trace."""

import copy

import pytest
import torch

import mmbert
from mmbert.errors import ModelError
from mmbert.hub.live import twin
from mmbert.hub.live.validation import Measured, _compare_errors, _first_difference
from mmbert.recipe import RotaryBases
from tests.support.live_models import (
    ENCODER,
    KINDS,
    LENGTHS,
    MASKED_LM,
    SEQUENCE,
    TOKENS,
    live_model,
    padded,
    with_labels,
)


@pytest.mark.parametrize("lengths", [pytest.param("equal", marks=pytest.mark.long), "mixed"])
@pytest.mark.parametrize("kind", KINDS)
def test_right_models_pass(kind: str, lengths: str) -> None:
    batch = padded(LENGTHS[lengths])
    if lengths == "equal" or kind in (MASKED_LM, SEQUENCE, TOKENS):
        batch = with_labels(kind, batch)
    mmbert.pack(live_model(kind, classifier_dropout=0.1), validate=batch)


def test_nothing_is_left_behind() -> None:
    model = live_model(SEQUENCE, classifier_dropout=0.2).eval()
    model.head.train()
    batch = with_labels(SEQUENCE, padded([9, 4]))
    model.classifier.weight.grad = torch.ones_like(model.classifier.weight)
    weights = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    mmbert.pack(model, validate=batch)
    assert not model.training
    assert model.head.norm.training
    assert model.drop.p == 0.2
    assert torch.equal(torch.get_rng_state(), state)
    assert (model.classifier.weight.grad == 1).all()
    assert model.head.dense.weight.grad is None
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("precision", ["float32", "autocast", "bfloat16"])
def test_a_wrong_rotation_is_found(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    made = twin.Twins.__init__

    def wrong(self: twin.Twins, model: object) -> None:
        made(self, model)  # type: ignore[arg-type]
        bases = RotaryBases.model_validate({"global": 10_000.0, "local": 10_000.0})
        object.__setattr__(self.model, "rotary_bases", bases)

    monkeypatch.setattr(twin.Twins, "__init__", wrong)
    model, batch = live_model(), padded(LENGTHS["mixed"])
    if precision == "bfloat16":
        model.to(torch.bfloat16)
    with (
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"),
        pytest.raises(ModelError, match="packed and unpacked differ in"),
    ):
        mmbert.pack(model, validate=batch)
    assert "forward" not in model.__dict__


@pytest.mark.parametrize("precision", ["autocast", "bfloat16"])
def test_half_precision_passes(precision: str) -> None:
    model = live_model(MASKED_LM)
    if precision == "bfloat16":
        model.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
        mmbert.pack(model, validate=with_labels(MASKED_LM, padded(LENGTHS["mixed"])))


def measured(change: float = 0.0) -> Measured:
    values = torch.tensor([1.0, 2.0, -4.0])
    return Measured(values[0] + change, {"logits": values + change}, {"w": values + change})


def test_the_tolerances_of_float32() -> None:
    assert _first_difference(measured(), measured()) is None
    for change, named in ((2e-6, "the loss"), (float("nan"), "the loss")):
        assert named in str(_first_difference(measured(change), measured()))
    one, other = measured(), measured()
    one.outputs["logits"][0] += 9e-6
    assert "logits: 2." in str(_first_difference(one, other))
    one = measured()
    one.gradients["w"][0] += 3e-5
    assert "the gradient of w" in str(_first_difference(one, other))
    one.gradients.clear()
    with pytest.raises(ModelError, match="the gradient of w: missing"):
        _first_difference(one, other)


def test_errors_up_to_one_and_a_half_times_the_unpacked_models() -> None:
    exact, unpacked = measured(), measured(0.01)
    _compare_errors(measured(0.0149), unpacked, exact, None)
    with pytest.raises(ModelError, match=r"1\.5 times the unpacked model's own error"):
        _compare_errors(measured(0.0151), unpacked, exact, None)


def test_rounding_beyond_the_tolerances_is_judged_in_float64(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mmbert.hub.live import validation

    monkeypatch.setattr(validation, "OUTPUT_TOLERANCE", 0.0)  # as if a deep model rounded more
    mmbert.pack(live_model(ENCODER), validate=padded(LENGTHS["mixed"]))
