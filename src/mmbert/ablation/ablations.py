"""Ablations of a recipe, as lists of overrides that each remove one idea.

Model, tokens, steps, batches and contexts are unchanged. Only `two-phases` changes the learning
rate, because it removes the decay of the last phase.
"""

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from mmbert.errors import ArgumentError, RecipeError
from mmbert.recipe import (
    LanguageSelection,
    LearningRate,
    MaskRatioRange,
    Phase,
    Recipe,
    Temperature,
)

FULL = "full"


@dataclass(frozen=True)
class Ablation:
    """Overrides (`key=value`) that remove one idea from the recipe.

    `overrides` is empty for the full recipe, and for an idea that the recipe does not use.
    """

    name: str
    meaning: str
    overrides: tuple[str, ...]

    def for_display(self) -> tuple[str, ...]:
        """Return the overrides with long language lists abbreviated."""
        return tuple(
            text if len(text) <= 100 else f"{text[:60]}… ({text.count(',') + 1:,} languages)"
            for text in self.overrides
        )


def all_ablations(recipe: Recipe) -> tuple[Ablation, ...]:
    """Return the full recipe and all its ablations, including those without overrides."""
    first, last = recipe.phases[0], recipe.phases[-1]
    start = first.temperature.start
    constant = Temperature(start=start, end=start)
    return (
        Ablation(FULL, "the recipe as it is", ()),
        _constant_mask(recipe),
        Ablation(
            "constant-temperature",
            f"the first phase's temperature, {start:g}, in all phases",
            tuple(
                f"phases.{phase.name}.temperature={start!r}"
                for phase in recipe.phases
                if phase.temperature != constant
            ),
        ),
        Ablation(
            "all-languages-first",
            "the last phase's languages in all phases",
            tuple(
                f"phases.{phase.name}.languages={_selection(last.languages)}"
                for phase in recipe.phases
                if phase.languages != last.languages
            ),
        ),
        Ablation(
            "two-phases",
            "the last phase continues like the one before it",
            _without_last_phase(recipe),
        ),
    )


def _constant_mask(recipe: Recipe) -> Ablation:
    """Return the ablation of the falling mask ratio; ModernBERT uses 30% throughout."""
    masked = [phase for phase in recipe.phases if not phase.causal]
    if not masked:
        return Ablation("constant-mask", "no phase is masked", ())
    kind = "masked " if len(masked) < len(recipe.phases) else ""
    return Ablation(
        "constant-mask",
        f"the first {kind}phase's mask ratio, {masked[0].mask_ratio}, in all {kind}phases",
        tuple(
            f"phases.{phase.name}.mask_ratio={_ratio(masked[0])}"
            for phase in masked
            if phase.mask_ratio != masked[0].mask_ratio
        ),
    )


def select_ablations(
    recipe: Recipe, only: Sequence[str] = (), variations: Sequence[Ablation] = ()
) -> tuple[Ablation, ...]:
    """Return the full recipe, and the ablations that change it or the variations that are given.

    Args:
        only: names that limit the choice, of ablations and of variations.
        variations: the user's own.

    Raises:
        UserError: `only` contains an unknown ablation or one that does not change the recipe, no
            ablation changes it, or a variation has the name of an ablation.
    """
    found = {ablation.name: ablation for ablation in all_ablations(recipe)}
    for variation in variations:
        if variation.name in found:
            raise ArgumentError(
                f"variation '{variation.name}' has the name of an ablation of the command",
                remedy=f"give it another name than {', '.join(found)}",
            )
    found |= {variation.name: variation for variation in variations}
    wanted = {*only} or {variation.name for variation in variations} or {*found}
    for name in only:
        if name not in found:
            nearest = difflib.get_close_matches(name, found, n=1, cutoff=0.0)[0]
            raise ArgumentError(
                f"unknown ablation '{name}'; did you mean '{nearest}'?",
                remedy=f"choose from: {', '.join(found)}",
            )
        if name != FULL and not found[name].overrides:
            raise ArgumentError(
                f"ablation '{name}' does not change recipe {recipe.name}: {found[name].meaning}",
                remedy="omit it",
            )
    chosen = [
        ablation
        for name, ablation in found.items()
        if name == FULL or (ablation.overrides and name in wanted)
    ]
    if len(chosen) == 1 and not only:
        raise RecipeError(
            f"recipe {recipe.name} has nothing to ablate: its phases share mask ratio, "
            "temperature and languages",
            remedy="use a recipe whose phases differ, such as `demo`",
        )
    return tuple(chosen)


def _without_last_phase(recipe: Recipe) -> tuple[str, ...]:
    """Return overrides that continue the previous phase's settings in the last phase."""
    if len(recipe.phases) < 2:
        return ()
    before, last = recipe.phases[-2:]
    end = before.temperature.end
    overrides = []
    if last.languages != before.languages:
        overrides.append(f"languages={_selection(before.languages)}")
    if last.temperature != Temperature(start=end, end=end):
        overrides.append(f"temperature={end!r}")
    if last.objective == before.objective == "masked" and last.mask_ratio != before.mask_ratio:
        overrides.append(f"mask_ratio={_ratio(before)}")
    # No second warm-up: the learning rate continues.
    rate = before.learning_rate.model_copy(update={"warmup": 0})
    if last.learning_rate != rate:
        overrides.append(f"learning_rate={_rate(rate)}")
    return tuple(f"phases.{last.name}.{override}" for override in overrides)


def _ratio(phase: Phase) -> str:
    """Format a phase's mask ratio, or range of them, as an override value."""
    ratio = phase.mask_ratio
    return json.dumps(ratio.model_dump()) if isinstance(ratio, MaskRatioRange) else repr(ratio)


def _rate(rate: LearningRate) -> str:
    return json.dumps({"shape": rate.shape} | rate.model_dump(mode="json", exclude_defaults=True))


def _selection(languages: LanguageSelection) -> str:
    """Format the selection as an override value."""
    if languages.all:
        return "all"
    values = languages.model_dump(mode="json", exclude_defaults=True)
    if set(values) == {"names"}:
        values = values["names"]
    return json.dumps(values, ensure_ascii=False)
