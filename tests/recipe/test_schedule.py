"""Training plan: phase ends, batch-size warm-up and learning rates."""

import math
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbert.parallel.parameter_spec import ParameterGroup
from mmbert.recipe import Recipe, dump_recipe, override_recipe, parse_recipe
from mmbert.schedule import (
    StepPlan,
    describe_phase_settings,
    learning_rate,
    step_settings,
    temperature,
    training_plan,
    weight_decay,
)
from tests.support.recipes import phase_of_row

RECIPE = parse_recipe("""
name: schedule
model: {hidden_size: 64, intermediate_size: 96, num_hidden_layers: 2, num_attention_heads: 2}
batch: {row_tokens: 100, rows: 8, quantum: 2, growth: {tokens: 12k, from_rows: 2}}
optimizer: {learning_rate: 1.0, weight_decay: 0.1}
phases:
  - {name: one, tokens: 100k, context: 50, languages: all, temperature: 0.7, mask_ratio: 0.3,
     rotary_bases: {global: 10000, local: 10000}, learning_rate: {warmup: 1k}}
  - {name: two, tokens: 50k, context: 50, languages: all, temperature: {start: 0.5, end: 0.1},
     mask_ratio: 0.1, rotary_bases: {global: 10000, local: 10000}, weight_decay: 0.5}
""")


def _with(**overrides: Any) -> Recipe:
    return override_recipe(RECIPE, {key.replace("__", "."): v for key, v in overrides.items()})


@given(
    tokens=st.integers(1, 200_000),
    second=st.integers(1, 200_000),
    growth=st.integers(1, 100_000),
    rows=st.sampled_from([2, 4, 8, 16]),
)
def test_steps_partition_the_rows(tokens: int, second: int, growth: int, rows: int) -> None:
    recipe = _with(
        phases__one__tokens=tokens,
        phases__two__tokens=second,
        batch__rows=rows,
        batch__growth={"tokens": growth, "from_rows": 2},
    )
    plan = training_plan(recipe)
    row = 0
    for step in range(plan.steps):
        at = plan.at(step)
        assert (at.step, at.first_row, at.tokens_before) == (step, row, row * 100)
        assert at.rows % recipe.batch.quantum == 0
        assert phase_of_row(plan, row).index == at.phase_index
        row += at.rows
        assert at.tokens_after == row * 100
    assert row * 100 == plan.tokens
    for phase, settings in zip(plan.phases, recipe.phases, strict=True):
        # Ends on the first step that reaches its tokens.
        last = plan.at(phase.end_step - 1)
        assert phase.tokens >= settings.tokens > phase.tokens - last.rows * 100
    with pytest.raises(IndexError):
        plan.at(plan.steps)


def test_growth_takes_equally_many_steps_at_each_size() -> None:
    stages = training_plan(RECIPE).phases[0].stages
    # 12,000 tokens over 2 + 4 + 6 rows of 100 tokens: 10 steps each.
    assert [(stage.rows, stage.steps) for stage in stages[:3]] == [(2, 10), (4, 10), (6, 10)]
    assert stages[3].rows == 8


def test_growth_ends_at_the_rows_of_the_first_phase() -> None:
    plan = training_plan(_with(phases__one__rows=4))
    assert [stage.rows for stage in plan.phases[0].stages] == [2, 4]
    assert [stage.rows for stage in plan.phases[1].stages] == [8]


def test_warm_up_reaches_the_peak_and_stays() -> None:
    plan = training_plan(RECIPE)
    rates = [learning_rate(RECIPE, plan, step) for step in range(8)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("shape", "formula"),
    [
        ("linear", lambda x: 1 - x),
        ("cosine", lambda x: (1 + math.cos(math.pi * x)) / 2),
        ("one_minus_sqrt", lambda x: 1 - math.sqrt(x)),
    ],
)
@pytest.mark.parametrize("decay_tokens", [None, 20_000, 49_000])
@pytest.mark.parametrize("warmup", [0, 4000])
def test_decays_follow_their_formula(
    shape: str, formula: Any, decay_tokens: int | None, warmup: int
) -> None:
    rate = {"peak": 0.5, "warmup": warmup, "shape": shape, "final": 0.1}
    if decay_tokens is not None:
        rate["decay_tokens"] = decay_tokens
    recipe = _with(phases__two__learning_rate=rate)
    plan = training_plan(recipe)
    phase = plan.phases[1]
    length = min(decay_tokens or phase.tokens, phase.tokens - warmup)
    for step in range(phase.first_step, phase.end_step):
        seen = plan.at(step).tokens_before - phase.first_token
        progress = max(0.0, (seen - (phase.tokens - length)) / length)
        expected = 0.5 * (0.1 + 0.9 * formula(progress))
        if seen < warmup:
            expected = 0.5 * (seen + 800) / warmup
        assert learning_rate(recipe, plan, step) == pytest.approx(expected, rel=1e-12)
    # The warm-up ends at the peak, where the decay starts.
    after_warm_up = phase.first_step + warmup // 800
    assert learning_rate(recipe, plan, after_warm_up) == pytest.approx(0.5, rel=1e-12)


def test_the_rates_of_groups_follow_the_schedule() -> None:
    rates = {"matrices": 0.25, "rest": 3.0}
    recipe = _with(
        optimizer__group_learning_rates=rates,
        phases__two__learning_rate={"peak": 0.5, "shape": "linear"},
    )
    plan = training_plan(recipe)
    for step in range(plan.steps):
        settings, rate = step_settings(recipe, plan, step), learning_rate(recipe, plan, step)
        assert settings.learning_rate == rate == learning_rate(recipe, plan, step)
        assert settings.group_learning_rates == pytest.approx(
            {group: peak * rate for group, peak in rates.items()}, rel=1e-15
        )
    first = step_settings(recipe, plan, plan.phases[1].first_step)
    assert first.scalars().items() >= {
        "learning_rate": 0.5, "learning_rate_matrices": 0.125, "learning_rate_rest": 1.5,
    }.items()  # fmt: skip
    described = describe_phase_settings(recipe, plan, 0).split(", ")
    assert described[1:3] == ["learning rate matrices 0.05 to 0.25", "learning rate rest 0.6 to 3"]


def test_without_rates_of_groups_nothing_names_them() -> None:
    plan = training_plan(RECIPE)
    assert not any("learning_rate_" in name for name in step_settings(RECIPE, plan, 0).scalars())
    assert "learning rate matrices" not in describe_phase_settings(RECIPE, plan, 0)
    assert "group" not in dump_recipe(RECIPE)


def test_a_group_without_a_rate_has_the_factor_one() -> None:
    """Exactly, whatever the rate: the step's bits depend on it."""
    for rate in (1e-3, 0.3, 7e-300):
        recipe = _with(optimizer__learning_rate=rate, optimizer__group_learning_rates={"rest": 2})
        factors = recipe.optimizer.rate_factors
        assert (factors["matrices"], factors["embedding"]) == (1.0, 1.0)
        assert set(factors) == set(get_args(ParameterGroup))
    assert set(RECIPE.optimizer.rate_factors.values()) == {1.0}


def test_weight_decay_and_temperature_belong_to_the_phase() -> None:
    plan = training_plan(RECIPE)
    boundary = plan.phases[1].first_step
    assert weight_decay(RECIPE, plan, boundary - 1) == 0.1
    assert weight_decay(RECIPE, plan, boundary) == 0.5
    assert temperature(RECIPE, plan, boundary - 1) == 0.7
    assert temperature(RECIPE, plan, boundary) == 0.5
    assert 0.1 < temperature(RECIPE, plan, plan.steps - 1) < 0.12


def test_a_phase_may_have_no_weight_decay() -> None:
    recipe = _with(phases__two__weight_decay=0)
    plan = training_plan(recipe)
    boundary = plan.phases[1].first_step
    assert [weight_decay(recipe, plan, step) for step in (boundary - 1, boundary)] == [0.1, 0.0]


def test_the_settings_of_a_step_are_those_of_its_phase() -> None:
    recipe = _with(phases__two__dropout=0.2)
    plan = training_plan(recipe)
    boundary = plan.phases[1].first_step
    before, after = (step_settings(recipe, plan, step) for step in (boundary - 1, boundary))
    assert (before.dropout, after.dropout) == (recipe.model.attention_output_dropout, 0.2)
    assert (
        after.scalars().items()
        >= {
            "learning_rate": 1.0,
            "weight_decay": 0.5,
            "mask_ratio": 0.1,
            "dropout": 0.2,
            "temperature": 0.5,
        }.items()
    )
    assert after.model_arguments() == {
        "rotary_bases": recipe.phases[1].rotary_bases,
        "dropout": 0.2,
        "causal": False,
    }


def test_a_causal_phase_has_a_predicted_share() -> None:
    recipe = override_recipe(
        RECIPE,
        {f"phases.one.{key}": value for key, value in
         {"objective": "causal", "mask_ratio": None, "predicted_share": 0.25}.items()},
    )  # fmt: skip
    plan = training_plan(recipe)
    boundary = plan.phases[1].first_step
    before, after = (step_settings(recipe, plan, step) for step in (boundary - 1, boundary))
    assert (before.model_arguments()["causal"], after.model_arguments()["causal"]) == (True, False)
    assert before.scalars()["predicted_share"] == 0.25
    assert "mask_ratio" not in before.scalars()
    assert "predicted_share" not in after.scalars()
    described = describe_phase_settings(recipe, plan, 0)
    assert described.startswith("objective causal, learning rate ")
    assert "predicted share 0.25" in described
    assert "mask ratio" not in described
    assert describe_phase_settings(recipe, plan, 1) == describe_phase_settings(RECIPE, plan, 1)


def test_a_phase_is_described_by_its_first_and_last_settings() -> None:
    plan = training_plan(RECIPE)
    last = temperature(RECIPE, plan, plan.steps - 1)
    described = describe_phase_settings(RECIPE, plan, 1).split(", ")
    assert {
        "learning rate 1",
        "weight decay 0.5",
        f"temperature 0.5 to {last:.4g}",
        "rotary bases 10000/10000",
    } <= set(described)


@pytest.mark.parametrize(
    ("tokens", "crossed"), [(200, False), (300, True), (400, False), (7, True)]
)
def test_a_step_that_ends_on_a_multiple_crosses_it(tokens: int, crossed: bool) -> None:
    """The step from token 200 to 300 starts at the end of the previous step."""
    assert StepPlan(2, 0, 2, 1, 100).crosses_multiple_of(tokens) is crossed
