"""Settings of Muon and NorMuon: the whole formula is in the recipe, and nothing without effect."""

from typing import Any

import pytest

from mmbert.errors import UserError
from mmbert.recipe import Recipe, dump_recipe, override_recipe, parse_recipe
from mmbert.recipe.optimizers import MATRIX_OPTIMIZERS, OPTIMIZER_STATES
from tests.support.recipes import phase, small_recipe

PLAIN = small_recipe(phase("a", 12_288), phase("b", 12_288))


def changed(**optimizer: Any) -> Recipe:
    return override_recipe(PLAIN, {f"optimizer.{key}": value for key, value in optimizer.items()})


@pytest.mark.parametrize(("name", "beta2"), [("muon", None), ("normuon", 0.95)])
def test_a_resolved_recipe_has_the_whole_formula(name: str, beta2: float | None) -> None:
    recipe = changed(name=name)
    assert recipe.optimizer.muon is not None
    assert recipe.optimizer.muon.model_dump() == {
        "momentum": 0.95,
        "nesterov": True,
        "coefficients": "quintic",
        "scale": "match_rms",
        "beta2": beta2,
    }
    text = dump_recipe(recipe)
    assert "coefficients: quintic" in text
    assert parse_recipe(text) == recipe
    assert "muon" not in dump_recipe(PLAIN)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ({"muon": {"momentum": 0.9}}, "optimizer.muon has no effect with optimizer.name=stable"),
        ({"name": "adamw", "muon": {}}, "optimizer.muon has no effect with optimizer.name=adamw"),
        ({"name": "muon", "muon": {"beta2": 0.9}},
         "optimizer.muon.beta2 has no effect with optimizer.name=muon"),
        ({"name": "normuon", "muon": {"scale": "original"}},
         "optimizer.muon.scale=original has no effect with optimizer.name=normuon"),
        ({"name": "muon", "muon": {"momentum": 1.0}}, "less than 1"),
        ({"name": "muon", "muon": {"coefficients": "cubic"}}, "'quintic' or 'polar_express'"),
        ({"name": "muon", "muon": {"nesterow": True}}, "did you mean 'nesterov'"),
        ({"name": "muon", "muon": 3}, "optimizer.muon"),
    ],
)  # fmt: skip
def test_keys_without_effect_are_refused_by_name(optimizer: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        changed(**optimizer)


def test_a_variant_changes_the_optimizer_in_both_directions() -> None:
    for before, after in (("stable_adamw", "normuon"), ("normuon", "stable_adamw"),
                          ("muon", "normuon"), ("normuon", "muon")):  # fmt: skip
        begun = changed(name=before)
        then = override_recipe(begun, {"optimizer.name": after, "optimizer.muon": None})
        assert then == changed(name=after)
        if before == "normuon":
            with pytest.raises(UserError, match=r"needs optimizer\.muon=null"):
                override_recipe(begun, {"optimizer.name": after})


def test_matrices_have_one_state_less() -> None:
    for name in OPTIMIZER_STATES:
        optimizer = changed(name=name).optimizer
        assert optimizer.bytes_of("embedding") == optimizer.bytes_of("rest") == 12
        assert optimizer.bytes_of("matrices") == (8 if name in MATRIX_OPTIMIZERS else 12)
        assert optimizer.row_states == (("row_exp_avg_sq",) if name == "normuon" else ())
