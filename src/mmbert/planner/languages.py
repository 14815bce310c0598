"""Tokens and epochs by language and phase, including those of mmBERT's published datasets."""

import csv
from dataclasses import dataclass
from importlib import resources

from mmbert.recipe import Phase, Recipe
from mmbert.schedule import TrainingPlan

# Columns of the published table, in the order of assignment to phases.
# Source: statistics/language_counts.csv of github.com/JHU-CLSP/mmBERT (MIT license).
_COLUMNS = ("pretrain", "ext", "decay-mid", "decay-eng", "decay-all")
_CODE = "code"


@dataclass(frozen=True)
class LanguagePhase:
    """Tokens and epochs of one language in one phase."""

    tokens: float
    epochs: float


@dataclass(frozen=True)
class LanguageTable:
    """Tokens and epochs of every language in every phase, with their origin.

    `languages` maps a language to one entry per phase, None if the phase does not use it.
    `same_text` is true if all phases draw from the same text, so that their epochs add up.
    """

    origin: str
    same_text: bool
    phases: tuple[str, ...]
    languages: dict[str, tuple[LanguagePhase | None, ...]]

    def most_repeated(self) -> list[tuple[str, float]]:
        """Return languages with their epochs, most repeated first.

        Epochs are summed over phases that share text; for separate text, their maximum is used.
        """
        combine = sum if self.same_text else max
        totals = {
            language: combine(entry.epochs for entry in entries if entry is not None)
            for language, entries in self.languages.items()
        }
        return sorted(totals.items(), key=lambda item: (-item[1], item[0]))


def published_counts() -> dict[str, dict[str, int]]:
    """Load {dataset: {language: tokens}} as published by the mmBERT authors, without zeros."""
    text = (
        resources.files(__package__)
        .joinpath("published_language_counts.csv")
        .read_text(encoding="utf-8")
    )
    counts: dict[str, dict[str, int]] = {column: {} for column in _COLUMNS}
    for row in csv.DictReader(text.splitlines()):
        for column in _COLUMNS:
            if int(row[column]):
                counts[column][row["language"]] = int(row[column])
    return counts


def published_languages(recipe: Recipe, plan: TrainingPlan) -> LanguageTable | None:
    """Build the table of a recipe with mmBERT's published languages; None for other recipes.

    Each phase is assigned the first unused dataset with exactly its selected languages (with `all`,
    only `decay-all`). The datasets are already resampled by temperature, so all languages of one
    have the same epochs: the phase's tokens divided by the dataset's.
    """
    counts = published_counts()
    entries: dict[str, list[LanguagePhase | None]] = {}
    names: list[str] = []
    for index, (phase, steps) in enumerate(zip(recipe.phases, plan.phases, strict=True)):
        column = _dataset(phase, counts, names)
        if column is None:
            return None
        names.append(column)
        epochs = steps.tokens / sum(counts[column].values())
        for language, tokens in counts[column].items():
            row = entries.setdefault(language, [None] * len(recipe.phases))
            row[index] = LanguagePhase(tokens * epochs, epochs)
    return LanguageTable(
        origin=f"mmBERT's published token counts ({', '.join(names)})",
        same_text=False,
        phases=tuple(phase.name for phase in recipe.phases),
        languages={language: tuple(row) for language, row in sorted(entries.items())},
    )


def _dataset(phase: Phase, counts: dict[str, dict[str, int]], used: list[str]) -> str | None:
    selected = set(phase.languages.names) - {_CODE}
    for column in _COLUMNS:
        published = set(counts[column]) - {_CODE}
        if column not in used and (selected == published or phase.languages.all):
            if phase.languages.all and column != "decay-all":
                continue
            return column
    return None
