"""Curves of a recipe's schedule over tokens, with every corner, for the picture of the plan."""

import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mmbert.planner.languages import LanguageTable
from mmbert.recipe import Recipe
from mmbert.schedule import PhasePlan, StepPlan, StepSettings, TrainingPlan, step_settings

# Steps per phase at equal distances, besides the corners.
STEPS_PER_PHASE = 240


@dataclass(frozen=True)
class Point:
    """A value of the schedule after `tokens` tokens of the run."""

    tokens: int
    value: float


@dataclass(frozen=True)
class Curve:
    """Values of one setting over the run, in order; straight lines between them.

    A step's value holds from its first to its last token. `pieces` has one sequence of points for
    each run of phases with known values: several only if some phases' values are unknown.
    """

    name: str
    pieces: tuple[tuple[Point, ...], ...]

    @property
    def values(self) -> list[float]:
        """The distinct values, ascending."""
        return sorted({point.value for piece in self.pieces for point in piece})


def language_counts(recipe: Recipe, table: LanguageTable | None) -> tuple[int | None, ...]:
    """Return the number of languages of each phase; None where it depends on shards.

    Args:
        table: languages of an estimate. Those of shards are counted; published ones, which are
            given without shards, are not needed: their phases name their languages.
    """
    if table is not None and table.same_text:
        used = [
            {name.rpartition("/")[2] for name, entries in table.languages.items() if entries[index]}
            for index in range(len(recipe.phases))
        ]
        return tuple(map(len, used))
    selections = [phase.languages for phase in recipe.phases]
    return tuple(
        len(set(chosen.names))
        if chosen.names and chosen.minimum_tokens is None and chosen.minimum_bytes is None
        else None
        for chosen in selections
    )


def schedule_curves(
    recipe: Recipe, plan: TrainingPlan, languages: Sequence[int | None]
) -> tuple[Curve, ...]:
    """Return languages, mask ratio, temperature, context, learning rate and batch over tokens.

    Causal phases have a predicted share instead of a mask ratio.
    """
    sampled = [
        (at, step_settings(recipe, plan, at.step))
        for phase in plan.phases
        for at in map(plan.at, sorted(_steps(recipe, plan, phase)))
    ]
    ends = {s.first_step + s.steps - 1 for phase in plan.phases for s in phase.stages}

    def curve(name: str, value: Callable[[StepPlan, StepSettings], float | None]) -> Curve:
        pieces: list[list[Point]] = [[]]
        for at, settings in sampled:
            found = value(at, settings)
            if found is None:
                pieces.append([])
                continue
            pieces[-1].append(Point(at.tokens_before, found))
            if at.step in ends:
                pieces[-1].append(Point(at.tokens_after, found))
        return Curve(name, tuple(tuple(_without_repeats(piece)) for piece in pieces if piece))

    def rate_of(group: str) -> Curve:
        return curve(f"learning rate, {group}", lambda _, s: s.group_learning_rates[group])

    return (
        curve("languages", lambda at, _: languages[at.phase_index]),
        *(
            found
            for found in (
                curve("mask ratio", lambda _, settings: settings.mask_ratio),
                curve("predicted share", lambda _, settings: settings.predicted_share),
            )
            if found.pieces
        ),
        curve("sampling temperature", lambda _, settings: settings.temperature),
        curve("context", lambda at, _: recipe.phases[at.phase_index].context),
        curve("learning rate", lambda _, settings: settings.learning_rate),
        *map(rate_of, recipe.optimizer.given_group_rates),
        curve("batch", lambda at, _: at.rows * at.row_tokens),
    )


def _steps(recipe: Recipe, plan: TrainingPlan, phase: PhasePlan) -> set[int]:
    """Return the steps of a phase to draw: corners, their neighbors, and some in between."""
    first, last = phase.first_step, phase.end_step - 1
    corners = {first, last}
    for stage in phase.stages:
        corners |= {stage.first_step, stage.first_step + stage.steps - 1}
    settings = recipe.phases[phase.index].learning_rate
    decay = phase.tokens - settings.warmup
    if settings.decay_tokens is not None:
        decay = min(decay, settings.decay_tokens)
    for tokens in (settings.warmup, phase.tokens - decay):
        steps = range(first, last + 1)
        corner = first + bisect.bisect_left(
            steps, phase.first_token + tokens, key=lambda step: plan.at(step).tokens_before
        )
        # Doubling distances from the corner: the square root's slope is infinite there.
        corners |= {corner + side * (1 << k) for k in range(40) for side in (-1, 1)} | {corner}
    between = {first + (last - first) * i // STEPS_PER_PHASE for i in range(STEPS_PER_PHASE)}
    return {step for step in corners | between if first <= step <= last}


def _without_repeats(points: Sequence[Point]) -> Iterator[Point]:
    """Leave out the points within a stretch of equal values."""
    for index, point in enumerate(points):
        around = points[max(0, index - 1) : index + 2]
        if len(around) < 3 or any(other.value != point.value for other in around):
            yield point
