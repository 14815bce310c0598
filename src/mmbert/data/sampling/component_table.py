"""Table of the components (one language of one source each) for logs and results."""

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
"""Tier of components that are not sampled in any phase."""


@dataclass(frozen=True)
class ComponentTable:
    """One entry per component of the corpus, in its order."""

    names: tuple[str, ...]
    """`source/language`; stable when indices change."""
    languages: tuple[str, ...]
    tiers: tuple[str, ...]
    """First phase in which the component is sampled."""
    train_tokens: npt.NDArray[np.int64]
    """Row tokens of one epoch: text plus begin and end tokens of every piece."""
    mixtures: tuple[PhaseMixture, ...]
    plan: TrainingPlan

    @classmethod
    def build(cls, corpus: Corpus, recipe: Recipe, plan: TrainingPlan) -> "ComponentTable":
        """Build the table of `corpus` under `recipe`.

        Raises:
            UserError: the corpus lacks text for a phase.
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
        """Return the number of languages sampled in a phase."""
        return len({self.languages[c] for c in np.flatnonzero(self.mixtures[phase].active)})

    def largest_languages(self) -> list[str]:
        """Return languages by their tokens in the whole run, in descending order."""
        last = self.plan.phases[-1]
        wanted = self.by_language(self.scheduled_tokens(self.plan.at(last.end_step - 1)))
        return sorted(wanted, key=lambda language: -wanted[language])

    def scheduled_tokens(self, at: StepPlan) -> npt.NDArray[np.float64]:
        """Return the scheduled tokens of each component up to the end of a step."""
        wanted = np.zeros(len(self.names))
        for mixture, phase in zip(self.mixtures, self.plan.phases, strict=True):
            if phase.index > at.phase_index:
                break
            progress = (at.first_row + at.rows - phase.first_row) / phase.rows
            wanted += _drawn(mixture, min(1.0, progress))
        return wanted

    def by_language(self, tokens: npt.NDArray[Any]) -> dict[str, int]:
        """Sum tokens over the components of each language, omitting zeros."""
        sums: dict[str, int] = {}
        for language, count in zip(self.languages, tokens, strict=True):
            if count:
                sums[language] = sums.get(language, 0) + int(count)
        return sums

    def to_names(self, tokens: npt.NDArray[np.float64]) -> dict[str, int]:
        """Return tokens by component name, as stored in checkpoints."""
        return {name: int(count) for name, count in zip(self.names, tokens, strict=True) if count}

    def from_names(self, tokens: Mapping[str, int]) -> npt.NDArray[np.float64]:
        """Convert the result of `to_names` to an array in this table's order."""
        return np.array([float(tokens.get(name, 0)) for name in self.names])


def _drawn(mixture: PhaseMixture, progress: float) -> npt.NDArray[np.float64]:
    """Return the row tokens of each component by `progress` (0 to 1), linear between the knots."""
    widths = np.diff(mixture.knots)
    parts = np.clip((progress - mixture.knots[:-1]) / widths, 0.0, 1.0)
    return np.asarray(parts @ mixture.pieces * mixture.row_tokens_per_piece, dtype=np.float64)
