"""Training schedule as pure functions of the recipe: steps, rows, tokens, learning rates.

Nothing here depends on the number of ranks. Tokens are nominal: rows times tokens per row,
including up to half a percent of padding, as in mmBERT's own token count.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from mmbert.recipe import Recipe, RotaryBases


@dataclass(frozen=True)
class Stage:
    """Consecutive steps with the same number of rows within a phase."""

    first_step: int
    steps: int
    rows: int
    first_row: int


@dataclass(frozen=True)
class PhasePlan:
    """Steps, rows and tokens of a phase; `first_…` count from the start of the run."""

    index: int
    name: str
    first_step: int
    steps: int
    first_row: int
    rows: int
    first_token: int
    tokens: int
    stages: tuple[Stage, ...]

    @property
    def end_step(self) -> int:
        """First step after this phase."""
        return self.first_step + self.steps


@dataclass(frozen=True)
class StepPlan:
    """One optimizer step, with rows `first_row` to `first_row + rows` of the global sequence."""

    step: int
    phase_index: int
    first_row: int
    rows: int
    row_tokens: int

    @property
    def tokens_before(self) -> int:
        """Nominal tokens of the run before this step."""
        return self.first_row * self.row_tokens

    @property
    def tokens_after(self) -> int:
        """Nominal tokens of the run up to the end of this step."""
        return (self.first_row + self.rows) * self.row_tokens

    def crosses_multiple_of(self, tokens: int) -> bool:
        """Return whether the step reaches or passes a multiple of `tokens`."""
        return self.tokens_after // tokens > self.tokens_before // tokens


@dataclass(frozen=True)
class TrainingPlan:
    """Schedule of all phases, in order."""

    phases: tuple[PhasePlan, ...]
    row_tokens: int

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.phases[-1].end_step

    @property
    def tokens(self) -> int:
        """Nominal tokens of the whole run."""
        return self.phases[-1].first_token + self.phases[-1].tokens

    def at(self, step: int) -> StepPlan:
        """Return the plan of optimizer step `step` (from 0). Raises IndexError past the end."""
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} is not in a run of {self.steps} steps")
        phase = next(phase for phase in self.phases if step < phase.end_step)
        stage = phase.stages[bisect_right(phase.stages, step, key=lambda s: s.first_step) - 1]
        first_row = stage.first_row + (step - stage.first_step) * stage.rows
        return StepPlan(step, phase.index, first_row, stage.rows, self.row_tokens)


def training_plan(recipe: Recipe) -> TrainingPlan:
    """Compute the steps of all phases. A phase ends on the first step that reaches its tokens.

    The batch-size warm-up (`batch.growth`, first phase only) goes through the multiples of the
    quantum from `from_rows` to the full batch, with the same number of steps at each size, as in
    ModernBERT's packer (tokens per size are thus proportional to the size).
    """
    row_tokens = recipe.batch.row_tokens
    phases: list[PhasePlan] = []
    step = row = 0
    for index, phase in enumerate(recipe.phases):
        first_step, first_row = step, row
        full = phase.rows or recipe.batch.rows
        rows_left = math.ceil(phase.tokens / row_tokens)
        stages: list[Stage] = []
        for rows, steps in _batch_size_warmup(recipe, full) if index == 0 else ():
            steps = min(steps, math.ceil(rows_left / rows))
            if steps > 0:
                stages.append(Stage(step, steps, rows, row))
                step, row, rows_left = step + steps, row + steps * rows, rows_left - steps * rows
        if rows_left > 0:
            steps = math.ceil(rows_left / full)
            stages.append(Stage(step, steps, full, row))
            step, row = step + steps, row + steps * full
        phases.append(
            PhasePlan(
                index=index,
                name=phase.name,
                first_step=first_step,
                steps=step - first_step,
                first_row=first_row,
                rows=row - first_row,
                first_token=first_row * row_tokens,
                tokens=(row - first_row) * row_tokens,
                stages=tuple(stages),
            )
        )
    return TrainingPlan(tuple(phases), row_tokens)


def _batch_size_warmup(recipe: Recipe, full: int) -> list[tuple[int, int]]:
    growth = recipe.batch.growth
    if growth is None:
        return []
    sizes = range(growth.from_rows, full, recipe.batch.quantum)
    if not sizes:
        return []
    steps = max(1, round(growth.tokens / (recipe.batch.row_tokens * sum(sizes))))
    return [(rows, steps) for rows in sizes]


def learning_rate(recipe: Recipe, plan: TrainingPlan, step: int) -> float:
    """Return the learning rate of `step`, a function of the tokens before it.

    The warm-up uses the tokens after the step instead, so that the first step has a nonzero rate.
    """
    at = plan.at(step)
    phase_plan = plan.phases[at.phase_index]
    settings = recipe.phases[at.phase_index].learning_rate
    peak = settings.peak or recipe.optimizer.learning_rate
    seen = at.tokens_before - phase_plan.first_token
    if seen < settings.warmup:
        return peak * min(1.0, (at.tokens_after - phase_plan.first_token) / settings.warmup)
    if settings.shape == "constant":
        return peak
    decay = phase_plan.tokens - settings.warmup
    if settings.decay_tokens is not None:
        decay = min(decay, settings.decay_tokens)
    progress = (seen - (phase_plan.tokens - decay)) / decay if decay > 0 else 0.0
    return peak * _decayed(settings.shape, min(1.0, max(0.0, progress)), settings.final)


def _decayed(shape: str, progress: float, final: float) -> float:
    if shape == "linear":
        remaining = 1.0 - progress
    elif shape == "cosine":
        remaining = 0.5 * (1.0 + math.cos(math.pi * progress))
    else:  # one_minus_sqrt: the decay of mmBERT-base, "inverse square root" in the paper
        remaining = 1.0 - math.sqrt(progress)
    return final + (1.0 - final) * remaining


def weight_decay(recipe: Recipe, plan: TrainingPlan, step: int) -> float:
    """Return the weight decay in the phase of `step` (before scaling by the learning rate)."""
    phase = recipe.phases[plan.at(step).phase_index]
    return recipe.optimizer.weight_decay if phase.weight_decay is None else phase.weight_decay


def temperature(recipe: Recipe, plan: TrainingPlan, step: int) -> float:
    """Return the sampling temperature (exponent) at the start of `step`."""
    at = plan.at(step)
    phase, settings = plan.phases[at.phase_index], recipe.phases[at.phase_index].temperature
    progress = (at.tokens_before - phase.first_token) / phase.tokens
    return settings.start + (settings.end - settings.start) * progress


@dataclass(frozen=True)
class StepSettings:
    """Settings of a step; log lines, charts and `--dry-run` show every field."""

    learning_rate: float
    group_learning_rates: Mapping[str, float]
    """Rates of the groups of parameters that the recipe gives one, named `learning_rate_GROUP`."""
    weight_decay: float
    mask_ratio: float | None
    """None in a causal phase."""
    dropout: float
    temperature: float
    rotary_bases: RotaryBases
    predicted_share: float | None = None
    """None in a masked phase."""

    @property
    def causal(self) -> bool:
        """Whether next tokens are predicted from those before them."""
        return self.predicted_share is not None

    def named(self) -> dict[str, float | RotaryBases]:
        """Return all settings but None by name, each group's learning rate as one of its own."""
        values: dict[str, float | RotaryBases] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Mapping):
                values |= {f"learning_rate_{group}": rate for group, rate in value.items()}
            elif value is not None:
                values[field.name] = value
        return values

    def scalars(self) -> dict[str, float]:
        """Return the numeric settings by name."""
        values = self.named().items()
        return {name: value for name, value in values if isinstance(value, int | float)}

    def model_arguments(self) -> dict[str, Any]:
        """Return the arguments of the model's forward pass by name."""
        return {
            "rotary_bases": self.rotary_bases,
            "dropout": self.dropout,
            "causal": self.causal,
        }


def step_settings(recipe: Recipe, plan: TrainingPlan, step: int) -> StepSettings:
    """Return the settings of `step`."""
    phase = recipe.phases[plan.at(step).phase_index]
    rate, factors = learning_rate(recipe, plan, step), recipe.optimizer.rate_factors
    return StepSettings(
        learning_rate=rate,
        group_learning_rates={
            group: rate * factors[group] for group in recipe.optimizer.given_group_rates
        },
        weight_decay=weight_decay(recipe, plan, step),
        mask_ratio=None if phase.causal else phase.predicted_fraction,
        dropout=recipe.dropout_in(phase),
        temperature=temperature(recipe, plan, step),
        rotary_bases=phase.rotary_bases,
        predicted_share=phase.predicted_share,
    )


def describe_phase_settings(recipe: Recipe, plan: TrainingPlan, phase_index: int) -> str:
    """Describe the settings of a phase in one line; changing values as `first to last`.

    The objective is named if it is not `masked`.
    """
    phase = plan.phases[phase_index]
    first = step_settings(recipe, plan, phase.first_step)
    named, last = first.named(), step_settings(recipe, plan, phase.end_step - 1).named()
    described = ["objective causal"] if first.causal else []
    for name, value in named.items():
        ends = [_format(value), _format(last[name])]
        described.append(f"{name.replace('_', ' ')} {' to '.join(dict.fromkeys(ends))}")
    return ", ".join(described)


def _format(value: float | RotaryBases) -> str:
    if isinstance(value, RotaryBases):
        return f"{value.global_:g}/{value.local_:g}"
    return f"{value:.4g}"
