"""Ablations at equal training FLOPs: the tokens of changed phases, to within a step."""

from pathlib import Path

import pytest

from mmbert.ablation.ablations import FULL, all_ablations
from mmbert.ablation.equal_flops import at_equal_flops, equal_tokens, training_cost
from mmbert.data.shards.corpus import open_corpus
from mmbert.errors import UserError
from mmbert.planner.data_statistics import gather_data_statistics
from mmbert.recipe import Recipe, load_recipe, override_recipe
from mmbert.schedule import training_plan

CONSTANT = ("phases.extension.mask_ratio=0.3", "phases.decay.mask_ratio=0.3")
CAUSAL = tuple(
    f"phases.pretrain.{key}"
    for key in ("objective=causal", "mask_ratio=null", "predicted_share=0.9")
)
LONGER = ("phases.pretrain.tokens=100k", "phases.extension.tokens=200k", "phases.decay.tokens=100k")


def _equal(full: Recipe, varied: Recipe, data: Path) -> dict[str, int]:
    return equal_tokens(full, training_cost(full, data).flops, varied, data, "varied")


def _flops_by_hand(recipe: Recipe, data: Path) -> float:
    """Return training FLOPs by the formula of docs/planner.md, and of Newton-Schulz."""
    plan, model = training_plan(recipe), recipe.model
    vocabulary = open_corpus(data).tokenizer.vocabulary_size
    lengths = gather_data_statistics(recipe, plan, data).mean_lengths
    d, f, layers = model.hidden_size, model.intermediate_size, model.num_hidden_layers
    wide = -(-layers // model.global_attention_every)
    total = 0.0
    if recipe.optimizer.name == "normuon":
        parts = [(d, d)] * (4 * layers + 1) + [(f, d)] * (3 * layers)
        total += plan.steps * sum(5 * (4 * min(p) ** 2 * max(p) + 2 * min(p) ** 3) for p in parts)
    for phase, planned in zip(recipe.phases, plan.phases, strict=True):
        length, window = lengths[phase.name], model.local_window
        keys = wide * length + (layers - wide) * min(length, window + 1)
        if phase.causal:
            keys = _causal_keys(length, layers - wide, wide, window // 2)
        total += planned.tokens * (
            6 * layers * (4 * d * d + 3 * d * f)
            + 12 * d * keys
            + 6 * phase.predicted_fraction * (d * d + d * vocabulary)
        )
    return total


def _causal_keys(length: float, local: int, wide: int, window: int) -> float:
    """Return keys a token over all layers: those up to the token itself, at most window + 1."""
    whole = (length + 1) / 2
    if length <= window + 1:
        return (local + wide) * whole
    first = (window + 1) * (window + 2) / 2
    return wide * whole + local * (first + (length - window - 1) * (window + 1)) / length


def _step_flops(recipe: Recipe, data: Path, phase: int) -> float:
    """Return the FLOPs of one step of a phase, from two lengths of the run."""
    settings = recipe.phases[phase]
    step = (settings.rows or recipe.batch.rows) * recipe.batch.row_tokens
    costs = [
        _flops_by_hand(
            override_recipe(recipe, {f"phases.{settings.name}.tokens": count * step}), data
        )
        for count in (100, 200)
    ]
    return (costs[1] - costs[0]) / 100


@pytest.mark.parametrize(
    "overrides",
    [
        CONSTANT,
        ("phases.pretrain.mask_ratio=0.9",),
        ("phases.decay.mask_ratio=0.9",),
        ("phases.decay.context=64", "phases.pretrain.mask_ratio=0.05"),
        ("model.intermediate_size=96",),
        (*CONSTANT, "batch.growth={tokens: 3k, from_rows: 4}", "batch.rows=12"),
        ("phases.pretrain.mask_ratio={low: 0.6, high: 0.9}",),
        (
            "batch.growth={tokens: 30k, from_rows: 4}",
            "batch.rows=12",
            "phases.pretrain.mask_ratio=0.9",
        ),
        ("optimizer={name: normuon, learning_rate: 3.0e-3}",),
        CAUSAL,
    ],
)
def test_costs_agree_to_within_a_step(inputs: Path, overrides: tuple[str, ...]) -> None:
    data = inputs / "shards"
    full = load_recipe(inputs / "recipe.yaml", LONGER)
    varied = load_recipe(inputs / "recipe.yaml", [*LONGER, *overrides])
    tokens = _equal(full, varied, data)
    assert tokens, "the change costs nothing"
    more = [f"phases.{name}.tokens={count}" for name, count in tokens.items()]
    scaled = load_recipe(inputs / "recipe.yaml", [*LONGER, *overrides, *more])
    step = max(_step_flops(varied, data, index) for index in range(3))
    wanted = _flops_by_hand(full, data)
    assert abs(_flops_by_hand(scaled, data) - wanted) < step
    assert abs(_flops_by_hand(varied, data) - wanted) > step
    assert training_cost(scaled, data).flops == pytest.approx(_flops_by_hand(scaled, data))
    for phase, other in zip(scaled.phases, varied.phases, strict=True):
        assert phase == other.model_copy(update={"tokens": phase.tokens})
        assert phase.name in tokens or phase == other


def test_only_changed_phases_are_scaled_and_by_one_factor(inputs: Path) -> None:
    full = load_recipe(inputs / "recipe.yaml", LONGER)
    varied = load_recipe(inputs / "recipe.yaml", [*LONGER, *CONSTANT])
    tokens = _equal(full, varied, inputs / "shards")
    assert list(tokens) == ["extension", "decay"]
    assert tokens["extension"] < 200_000, "more masks cost more"
    assert tokens["extension"] / 200_000 == pytest.approx(tokens["decay"] / 100_000, rel=0.01)


def test_what_costs_the_same_keeps_its_tokens(inputs: Path) -> None:
    full = load_recipe(inputs / "recipe.yaml")
    for override in ("optimizer.learning_rate=1e-3", "phases.decay.temperature=0.9"):
        varied = load_recipe(inputs / "recipe.yaml", [override])
        assert _equal(full, varied, inputs / "shards") == {}


def test_ablations_get_their_tokens_as_overrides(inputs: Path) -> None:
    full = load_recipe(inputs / "recipe.yaml", LONGER)
    chosen = [one for one in all_ablations(full) if one.name in (FULL, "constant-mask")]
    same, varied = at_equal_flops(inputs / "recipe.yaml", LONGER, chosen, inputs / "shards")
    assert same == chosen[0]
    assert varied.overrides[: len(CONSTANT)] == CONSTANT
    assert [text.partition("=")[0] for text in varied.overrides[len(CONSTANT) :]] == [
        "phases.extension.tokens", "phases.decay.tokens",
    ]  # fmt: skip


def test_a_phase_more_leaves_nothing_for_it(inputs: Path) -> None:
    varied = load_recipe(inputs / "recipe.yaml")
    full = varied.model_copy(update={"phases": varied.phases[:2]})
    with pytest.raises(UserError, match="ablation 'varied' cannot cost as many FLOPs"):
        _equal(full, varied, inputs / "shards")
