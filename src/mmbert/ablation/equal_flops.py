"""Training FLOPs of a recipe on shards, and tokens of an ablation that cost as much.

FLOPs are those of `mmbert plan`: products of the layers and of the head, attention by the lengths
of the shards' documents.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmbert.ablation.ablations import FULL, Ablation
from mmbert.errors import ArgumentError
from mmbert.planner import Estimate, estimate
from mmbert.recipe import Recipe, load_recipe, override_recipe
from mmbert.schedule import training_plan

# Lengths of documents depend on the mixture, and where epochs are capped, this on the tokens.
_ROUNDS = 3


@dataclass(frozen=True)
class Cost:
    """Length and cost of a training run."""

    steps: int
    tokens: int
    flops: float


def training_cost(recipe: Recipe, data: Path) -> Cost:
    """Return steps, nominal tokens and training FLOPs of `recipe` on the shards in `data`."""
    plan = training_plan(recipe)
    return Cost(plan.steps, plan.tokens, _estimate(recipe, data).total_flops)


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
    cost = _estimate(varied, data)
    if abs(cost.total_flops - flops) < _largest_step(cost):
        return {}
    changed = _changed_phases(full, varied)
    tokens: dict[str, int] = {}
    for _ in range(_ROUNDS):
        before, tokens = tokens, _scaled(flops, varied, changed, cost, name)
        scaled = override_recipe(
            varied, {f"phases.{phase}.tokens": count for phase, count in tokens.items()}
        )
        if tokens == before:
            break
        cost = _estimate(scaled, data)
    return tokens


def _scaled(
    wanted: float, varied: Recipe, changed: Sequence[int], cost: Estimate, name: str
) -> dict[str, int]:
    """Return the tokens of the changed phases at the FLOPs per token of `cost`."""
    per_token = [phase.flops.total for phase in cost.phases]
    planned = training_plan(varied).phases
    kept = sum(
        per_token[index] * phase.tokens
        for index, phase in enumerate(planned)
        if index not in changed
    )
    left = wanted - kept
    factor = left / sum(per_token[index] * planned[index].tokens for index in changed)
    if factor <= 0:
        raise ArgumentError(
            f"ablation '{name}' cannot cost as many FLOPs as the full recipe: the phases that it "
            "leaves as they are cost more",
            remedy="compare at equal tokens (without --equal flops), or shorten those phases",
        )
    tokens: dict[str, int] = {}
    for index in changed:
        phase = varied.phases[index]
        step = (phase.rows or varied.batch.rows) * varied.batch.row_tokens
        # What the phases before were rounded by goes to the next.
        share = factor * planned[index].tokens
        ideal = left / per_token[index] if index == changed[-1] else share
        whole = max(1, round(ideal / step))
        trained = {
            steps * step: _trained_tokens(varied, index, steps * step)
            for steps in (whole - 1, whole)
            if steps
        }
        count = min(trained, key=lambda tokens: abs(trained[tokens] - ideal))
        left -= trained[count] * per_token[index]
        tokens[phase.name] = count
    return tokens


def _trained_tokens(recipe: Recipe, index: int, tokens: int) -> int:
    """Return the tokens of the steps of a phase of `tokens`: more, if the batch grows in it."""
    changed = override_recipe(recipe, {f"phases.{recipe.phases[index].name}.tokens": tokens})
    return training_plan(changed).phases[index].tokens


def _changed_phases(full: Recipe, varied: Recipe) -> list[int]:
    """Return the phases of `varied` that differ from those of `full`; all, if the rest differs."""
    before = {phase.name: phase for phase in full.phases}
    changed = [
        index
        for index, phase in enumerate(varied.phases)
        if phase != before.get(phase.name) or varied.model != full.model
    ]
    return changed or list(range(len(varied.phases)))


def _largest_step(cost: Estimate) -> float:
    """Return the FLOPs of the largest step."""
    row = cost.recipe.batch.row_tokens
    return max(
        max(stage.rows for stage in phase.steps.stages) * row * phase.flops.total
        for phase in cost.phases
    )


def _estimate(recipe: Recipe, data: Path) -> Estimate:
    # FLOPs do not depend on the GPUs: one data rank fits every quantum.
    return estimate(recipe, gpus=recipe.parallel.tensor, shards=data)
