"""The components (one language of one source each) as the figures need them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmbert.data.sampling.mixture_weights import (
    PhaseMixture,
    component_sizes,
    component_tiers,
    phase_mixtures,
)
from mmbert.data.shards.corpus import Corpus
from mmbert.recipe import Recipe
from mmbert.schedule import StepPlan, TrainingPlan

NO_TIER = "none"
"""The tier of a component that no phase draws from."""


@dataclass(frozen=True)
class ComponentTable:
    """One entry per component of the corpus, in its order."""

    names: tuple[str, ...]
    """`source/language`, which lasts when indices change."""
    languages: tuple[str, ...]
    tiers: tuple[str, ...]
    """The first phase that draws from the component."""
    train_tokens: npt.NDArray[np.int64]
    """Row tokens of one epoch: its text, and begin and end of every piece."""
    mixtures: tuple[PhaseMixture, ...]
    plan: TrainingPlan

    @classmethod
    def build(cls, corpus: Corpus, recipe: Recipe, plan: TrainingPlan) -> "ComponentTable":
        """The table of `corpus` under `recipe`.

        Raises:
            UserError: a phase asks for text that is not there.
        """
        sizes = component_sizes(corpus, recipe)
        names = [phase.name for phase in recipe.phases]
        tiers = component_tiers(sizes, recipe)
        return cls(
            names=tuple(component.name for component in corpus.components),
            languages=tuple(component.language for component in corpus.components),
            tiers=tuple(NO_TIER if tier < 0 else names[tier] for tier in tiers),
            train_tokens=np.array([size.tokens + 2 * size.pieces for size in sizes]),
            mixtures=phase_mixtures(sizes, recipe),
            plan=plan,
        )

    def languages_in(self, phase: int) -> int:
        """How many languages a phase draws from."""
        return len({self.languages[c] for c in np.flatnonzero(self.mixtures[phase].active)})

    def largest_languages(self) -> list[str]:
        """Languages by the tokens that the whole run takes of them, most first."""
        last = self.plan.phases[-1]
        wanted = self.by_language(self.scheduled_tokens(self.plan.at(last.end_step - 1)))
        return sorted(wanted, key=lambda language: -wanted[language])

    def scheduled_tokens(self, at: StepPlan) -> npt.NDArray[np.float64]:
        """Tokens of each component that the schedule has drawn by the end of a step."""
        wanted = np.zeros(len(self.names))
        for mixture, phase in zip(self.mixtures, self.plan.phases, strict=True):
            if phase.index > at.phase_index:
                break
            progress = (at.first_row + at.rows - phase.first_row) / phase.rows
            wanted += _drawn(mixture, min(1.0, progress))
        return wanted

    def by_language(self, tokens: npt.NDArray[Any]) -> dict[str, int]:
        """Tokens by component added up by language, those with none left out."""
        sums: dict[str, int] = {}
        for language, count in zip(self.languages, tokens, strict=True):
            if count:
                sums[language] = sums.get(language, 0) + int(count)
        return sums

    def to_names(self, tokens: npt.NDArray[np.float64]) -> dict[str, int]:
        """Tokens by the components' lasting names, as a checkpoint keeps them."""
        return {name: int(count) for name, count in zip(self.names, tokens, strict=True) if count}

    def from_names(self, tokens: Mapping[str, int]) -> npt.NDArray[np.float64]:
        """What `to_names` gave, in this table's order."""
        return np.array([float(tokens.get(name, 0)) for name in self.names])


def _drawn(mixture: PhaseMixture, progress: float) -> npt.NDArray[np.float64]:
    """Row tokens of each component by `progress` (0 … 1) of a phase, linear between its knots."""
    widths = np.diff(mixture.knots)
    parts = np.clip((progress - mixture.knots[:-1]) / widths, 0.0, 1.0)
    return np.asarray(parts @ mixture.pieces * mixture.row_tokens_per_piece, dtype=np.float64)
