"""Ablations: each is a recipe of the same size that differs only in the ablated idea."""

from typing import Any

import pytest

from mmbert.ablation.ablations import FULL, Ablation, all_ablations, select_ablations
from mmbert.errors import UserError
from mmbert.recipe import Recipe, load_recipe
from mmbert.schedule import learning_rate, training_plan
from tests.support.environment import ROOT

RECIPES = ROOT / "src" / "mmbert" / "recipes"
ANNEALED = ("demo", "mmbert-base", "mmbert-small", "small-corpus")
NAMES = ("constant-mask", "constant-temperature", "all-languages-first", "two-phases")
# Phase keys that an ablation may change.
TOUCHES = {
    "constant-mask": {"mask_ratio"},
    "constant-temperature": {"temperature"},
    "all-languages-first": {"languages"},
    "two-phases": {"languages", "temperature", "mask_ratio", "learning_rate"},
}


def _load(name: str, overrides: tuple[str, ...] = ()) -> Recipe:
    return load_recipe(RECIPES / f"{name}.yaml", overrides)


def _ablation(recipe: Recipe, name: str) -> Ablation:
    return next(v for v in all_ablations(recipe) if v.name == name)


@pytest.mark.parametrize("ablation_name", NAMES)
@pytest.mark.parametrize("recipe_name", ANNEALED)
def test_only_the_idea_differs(recipe_name: str, ablation_name: str) -> None:
    full = _load(recipe_name)
    ablation = _ablation(full, ablation_name)
    varied = _load(recipe_name, ablation.overrides)
    assert training_plan(varied) == training_plan(full)
    assert varied.model_copy(update={"phases": ()}) == full.model_copy(update={"phases": ()})
    touched: set[str] = set()
    for own, other in zip(varied.phases, full.phases, strict=True):
        touched |= {
            key for key in type(own).model_fields if getattr(own, key) != getattr(other, key)
        }
    assert touched == TOUCHES[ablation_name]
    assert len(ablation.overrides) == sum(
        getattr(own, key) != getattr(other, key)
        for own, other in zip(varied.phases, full.phases, strict=True)
        for key in TOUCHES[ablation_name]
    ), "an override that changes nothing"


@pytest.mark.parametrize("recipe_name", ANNEALED)
def test_what_each_variation_holds_constant(recipe_name: str) -> None:
    full = _load(recipe_name)

    def values(name: str, key: str) -> list[Any]:
        phases = _load(recipe_name, _ablation(full, name).overrides).phases
        return [getattr(phase, key) for phase in phases]

    first, before, last = full.phases[0], *full.phases[-2:]
    assert values("constant-mask", "mask_ratio") == [first.mask_ratio] * 3
    assert values("constant-temperature", "temperature") == [first.temperature] * 3
    assert values("all-languages-first", "languages") == [last.languages] * 3
    two = _load(recipe_name, _ablation(full, "two-phases").overrides)
    assert two.phases[:2] == full.phases[:2]
    assert two.phases[2].languages == before.languages
    plan = training_plan(full)
    rates = {
        learning_rate(two, plan, step) for step in range(plan.phases[2].first_step, plan.steps)
    }
    assert rates == {learning_rate(full, plan, plan.phases[1].end_step - 1)}


def test_a_temperature_that_moves_within_a_phase_is_held_too() -> None:
    moving = ("phases.pretrain.temperature={start: 0.7, end: 0.6}",)
    full = _load("demo", moving)
    varied = _load("demo", moving + _ablation(full, "constant-temperature").overrides)
    assert {(p.temperature.start, p.temperature.end) for p in varied.phases} == {(0.7, 0.7)}
    gone = _load("demo", ("phases.extension.temperature={start: 0.5, end: 0.4}",))
    assert "phases.decay.temperature=0.4" in _ablation(gone, "two-phases").overrides


def test_a_range_of_mask_ratios_is_held_too() -> None:
    drawn = ("phases.pretrain.mask_ratio={low: 0.2, high: 0.4}", "phases.extension.mask_ratio=0.3")
    full = _load("demo", drawn)
    ablation = _ablation(full, "constant-mask")
    assert "mask ratio, 0.2 to 0.4, in all phases" in ablation.meaning
    assert {p.mask_ratio for p in _load("demo", drawn + ablation.overrides).phases} == {
        full.phases[0].mask_ratio
    }
    moved = ("phases.extension.mask_ratio={low: 0.2, high: 0.4}",)
    last = _load("demo", moved + _ablation(_load("demo", moved), "two-phases").overrides).phases[2]
    assert last.mask_ratio == full.phases[0].mask_ratio


def test_languages_whose_codes_are_yaml_words_stay_languages() -> None:
    """`yes` and `nan` are languages, which YAML would read as other types if unquoted."""
    named = ("phases.decay.languages=['yes', 'nan', 'no']", "phases.extension.languages=['nan']")
    full = _load("demo", named)
    varied = _load("demo", named + _ablation(full, "all-languages-first").overrides)
    assert {phase.languages.names for phase in varied.phases} == {("yes", "nan", "no")}


def test_what_the_recipe_does_not_change_is_left_out() -> None:
    full = _load("demo", ("phases.extension.mask_ratio=0.3", "phases.decay.mask_ratio=0.3"))
    names = [ablation.name for ablation in select_ablations(full)]
    assert names == [FULL, *(name for name in NAMES if name != "constant-mask")]
    with pytest.raises(UserError, match="'constant-mask' does not change recipe demo"):
        select_ablations(full, ["constant-mask"])
    with pytest.raises(UserError, match="nothing to ablate"):
        select_ablations(_load("adapt"))


def test_only_takes_the_full_recipe_along_and_knows_its_names() -> None:
    full = _load("demo")
    assert [v.name for v in select_ablations(full, ["two-phases"])] == [FULL, "two-phases"]
    with pytest.raises(UserError, match="did you mean 'constant-mask'") as error:
        select_ablations(full, ["constant-masks"])
    assert "all-languages-first" in error.value.remedy


def test_long_lists_of_languages_are_cut_short_for_people() -> None:
    ablation = _ablation(_load("mmbert-base"), "all-languages-first")
    assert max(map(len, ablation.overrides)) > 10_000
    assert max(map(len, ablation.for_display())) < 100
    assert any("1,833 languages" in text for text in ablation.for_display())


def test_a_causal_phase_keeps_its_objective() -> None:
    """Mask ratios are those of masked phases; a phase after a causal one keeps its own."""
    keys = ("objective=causal", "mask_ratio=null", "predicted_share=0.25")
    full = _load("demo", tuple(f"phases.pretrain.{key}" for key in keys))
    found = {ablation.name: ablation for ablation in all_ablations(full)}
    masks = found["constant-mask"]
    ratio = full.phases[1].mask_ratio
    assert masks.overrides == (f"phases.decay.mask_ratio={ratio!r}",)
    assert masks.meaning == f"the first masked phase's mask ratio, {ratio}, in all masked phases"
    for ablation in found.values():
        changed = _load("demo", (*(f"phases.pretrain.{key}" for key in keys), *ablation.overrides))
        assert [phase.causal for phase in changed.phases] == [True, False, False]
