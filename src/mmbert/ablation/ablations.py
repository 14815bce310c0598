"""The recipe without one of its ideas: each ablation is a list of overrides and nothing else.

All have the recipe's model, tokens, steps, batches and contexts; only `two-phases` has another
learning rate, because the decay of the last phase is what it leaves out.
"""

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from mmbert.errors import UserError
from mmbert.recipe import LanguageSelection, LearningRate, Recipe, Temperature

FULL = "full"


@dataclass(frozen=True)
class Ablation:
    """The recipe with `overrides` (`key=value`); none: the recipe has nothing there to leave out,
    or is the full recipe itself."""

    name: str
    meaning: str
    overrides: tuple[str, ...]

    def for_display(self) -> tuple[str, ...]:
        """The overrides, long lists of languages cut short."""
        return tuple(
            text if len(text) <= 100 else f"{text[:60]}… ({text.count(',') + 1:,} languages)"
            for text in self.overrides
        )


def all_ablations(recipe: Recipe) -> tuple[Ablation, ...]:
    """The full recipe and every ablation of it, those without overrides counted in."""
    first, last = recipe.phases[0], recipe.phases[-1]
    start = first.temperature.start
    constant = Temperature(start=start, end=start)
    return (
        Ablation(FULL, "the recipe as it is", ()),
        Ablation(
            "constant-mask",
            # As ModernBERT was trained: 30% from the first token to the last.
            f"the first phase's mask ratio, {first.mask_ratio:g}, in all phases",
            tuple(
                f"phases.{phase.name}.mask_ratio={first.mask_ratio!r}"
                for phase in recipe.phases
                if phase.mask_ratio != first.mask_ratio
            ),
        ),
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
            "two-phases", "the last phase goes on as the one before it", _without_last_phase(recipe)
        ),
    )


def select_ablations(recipe: Recipe, only: Sequence[str] = ()) -> tuple[Ablation, ...]:
    """The full recipe and the variations that differ from it, or of these those in `only`.

    Raises:
        UserError: `only` names no ablation, or one that would be the recipe itself.
    """
    found = {ablation.name: ablation for ablation in all_ablations(recipe)}
    for name in only:
        if name not in found:
            nearest = difflib.get_close_matches(name, found, n=1, cutoff=0.0)[0]
            raise UserError(
                f"there is no ablation '{name}'; did you mean '{nearest}'?",
                remedy=f"the variations: {', '.join(found)}",
            )
        if name != FULL and not found[name].overrides:
            raise UserError(
                f"ablation '{name}' is recipe {recipe.name} itself: {found[name].meaning}",
                remedy="leave it out",
            )
    chosen = [
        ablation
        for name, ablation in found.items()
        if name == FULL or (ablation.overrides and (not only or name in only))
    ]
    if len(chosen) == 1 and not only:
        raise UserError(
            f"recipe {recipe.name} anneals nothing: its phases have one mask ratio, one "
            "temperature and the same languages",
            remedy="name a recipe whose phases differ, such as `demo`",
        )
    return tuple(chosen)


def _without_last_phase(recipe: Recipe) -> tuple[str, ...]:
    """Overrides that give the last phase the mixture, masks and rate of the one before it."""
    if len(recipe.phases) < 2:
        return ()
    before, last = recipe.phases[-2:]
    end = before.temperature.end
    overrides = []
    if last.languages != before.languages:
        overrides.append(f"languages={_selection(before.languages)}")
    if last.temperature != Temperature(start=end, end=end):
        overrides.append(f"temperature={end!r}")
    if last.mask_ratio != before.mask_ratio:
        overrides.append(f"mask_ratio={before.mask_ratio!r}")
    # No second warm-up: the rate goes on where it was.
    rate = before.learning_rate.model_copy(update={"warmup": 0})
    if last.learning_rate != rate:
        overrides.append(f"learning_rate={_rate(rate)}")
    return tuple(f"phases.{last.name}.{override}" for override in overrides)


def _rate(rate: LearningRate) -> str:
    return json.dumps({"shape": rate.shape} | rate.model_dump(mode="json", exclude_defaults=True))


def _selection(languages: LanguageSelection) -> str:
    """The selection as an override says it."""
    if languages.all:
        return "all"
    values = languages.model_dump(mode="json", exclude_defaults=True)
    if set(values) == {"names"}:
        values = values["names"]
    return json.dumps(values, ensure_ascii=False)
