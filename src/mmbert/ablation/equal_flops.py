"""Training FLOPs of a recipe on shards, and tokens of an ablation that cost as much.

FLOPs are those of `mmbert plan`: products of the layers and of the head, attention by the lengths
of the shards' documents; and the products of Muon's Newton-Schulz iterations, which small models
with small batches notice.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmbert.ablation.ablations import FULL, Ablation
from mmbert.errors import ArgumentError
from mmbert.planner import estimate
from mmbert.recipe import Recipe, load_recipe, override_recipe
from mmbert.schedule import PhasePlan, training_plan

# Lengths of documents depend on the mixture, and where epochs are capped, this on the tokens.
_ROUNDS = 3


@dataclass(frozen=True)
class Cost:
    """Length and cost of a training run."""

    steps: int
    tokens: int
    flops: float


@dataclass(frozen=True)
class _Prices:
    """FLOPs of a token in each phase, and of the optimizer in each step."""

    tokens: tuple[float, ...]
    step: float

    def of(self, phase: PhasePlan) -> float:
        """Return the FLOPs of a phase."""
        return self.tokens[phase.index] * phase.tokens + self.step * phase.steps

    def of_run(self, recipe: Recipe) -> float:
        """Return the FLOPs of all phases."""
        return sum(map(self.of, training_plan(recipe).phases))

    def of_step(self, recipe: Recipe, phase: int) -> float:
        """Return the FLOPs of a full step of a phase."""
        return self.tokens[phase] * _step_tokens(recipe, phase) + self.step


def training_cost(recipe: Recipe, data: Path) -> Cost:
    """Return steps, nominal tokens and training FLOPs of `recipe` on the shards in `data`."""
    plan = training_plan(recipe)
    return Cost(plan.steps, plan.tokens, _prices(recipe, data).of_run(recipe))


def at_equal_flops(
    recipe: str | Path, overrides: Sequence[str], ablations: Sequence[Ablation], data: Path
) -> tuple[Ablation, ...]:
    """Return the ablations with the tokens at which each costs as many FLOPs as the full recipe.

    Raises:
        ArgumentError: the phases that an ablation leaves as they are cost more than that.
    """
    full = load_recipe(recipe, overrides)
    flops = training_cost(full, data).flops
    found = []
    for ablation in ablations:
        varied = load_recipe(recipe, [*overrides, *ablation.overrides])
        if ablation.name != FULL:
            tokens = equal_tokens(full, flops, varied, data, ablation.name)
            more = tuple(f"phases.{name}.tokens={count}" for name, count in tokens.items())
            ablation = dataclasses.replace(ablation, overrides=(*ablation.overrides, *more))
        found.append(ablation)
    return tuple(found)


def equal_tokens(
    full: Recipe, flops: float, varied: Recipe, data: Path, name: str
) -> dict[str, int]:
    """Return tokens of the changed phases of `varied` at which it costs as much as `full`.

    The changed phases are lengthened or shortened by a common factor, to whole steps; the costs
    then differ by less than a step. Empty if they do so already.

    Args:
        full, varied: recipes to compare.
        flops: training FLOPs of `full`.
        data: shards.
        name: name of the ablation, for messages.

    Raises:
        ArgumentError: the other phases of `varied` cost as much as `full`, or more.
    """
    prices = _prices(varied, data)
    largest = max(prices.of_step(varied, index) for index in range(len(varied.phases)))
    if abs(prices.of_run(varied) - flops) < largest:
        return {}
    changed = _changed_phases(full, varied)
    tokens: dict[str, int] = {}
    for _ in range(_ROUNDS):
        before, tokens = tokens, _scaled(flops, varied, changed, prices, name)
        if tokens == before:
            break
        keys = {f"phases.{phase}.tokens": count for phase, count in tokens.items()}
        prices = _prices(override_recipe(varied, keys), data)
    return tokens


def _scaled(
    flops: float, varied: Recipe, changed: Sequence[int], prices: _Prices, name: str
) -> dict[str, int]:
    """Return the tokens of the changed phases at which the run costs `flops`."""
    planned = training_plan(varied).phases
    left = flops - sum(prices.of(phase) for phase in planned if phase.index not in changed)
    factor = left / sum(prices.of(planned[index]) for index in changed)
    if factor <= 0:
        raise ArgumentError(
            f"ablation '{name}' cannot cost as many FLOPs as the full recipe: the phases that it "
            "leaves as they are cost more",
            remedy="compare at equal tokens (without --equal flops), or shorten those phases",
        )
    tokens: dict[str, int] = {}
    for index in changed:
        # What the phases before were rounded by goes to the last one.
        wanted = left if index == changed[-1] else factor * prices.of(planned[index])
        phase = _nearest(varied, index, wanted, prices)
        tokens[phase.name] = phase.tokens
        left -= prices.of(phase)
    return tokens


def _nearest(recipe: Recipe, index: int, flops: float, prices: _Prices) -> PhasePlan:
    """Return the plan of a phase with the tokens at which it costs about `flops`."""
    step, price = _step_tokens(recipe, index), prices.of_step(recipe, index)
    key = f"phases.{recipe.phases[index].name}.tokens"

    def planned(steps: int) -> PhasePlan:
        return training_plan(override_recipe(recipe, {key: steps * step})).phases[index]

    steps = max(1, round(flops / price))
    # While the batch grows, steps are smaller, and the phase ends with a whole one.
    steps = max(1, steps + round((flops - prices.of(planned(steps))) / price))
    around = [planned(one) for one in (steps - 1, steps, steps + 1) if one > 0]
    return min(around, key=lambda phase: abs(prices.of(phase) - flops))


def _changed_phases(full: Recipe, varied: Recipe) -> list[int]:
    """Return the phases of `varied` that differ from those of `full`; all, if the model does."""
    before = {phase.name: phase for phase in full.phases}
    elsewhere = varied.model != full.model or varied.optimizer.name != full.optimizer.name
    changed = [
        index
        for index, phase in enumerate(varied.phases)
        if elsewhere or phase != before.get(phase.name)
    ]
    return changed or list(range(len(varied.phases)))


def _step_tokens(recipe: Recipe, phase: int) -> int:
    """Return the tokens of a full step of a phase."""
    return (recipe.phases[phase].rows or recipe.batch.rows) * recipe.batch.row_tokens


def _prices(recipe: Recipe, data: Path) -> _Prices:
    # FLOPs do not depend on the GPUs: one data rank fits every quantum.
    cost = estimate(recipe, gpus=recipe.parallel.tensor, shards=data)
    matrices = cost.matrix_exchange
    return _Prices(
        tokens=tuple(phase.flops.total for phase in cost.phases),
        step=0.0 if matrices is None else matrices.flops,
    )
