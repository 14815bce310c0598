"""Tokens and epochs per language: from the shards at hand, or from mmBERT's published datasets."""

import csv
from dataclasses import dataclass
from importlib import resources

from mmbert.recipe import Phase, Recipe
from mmbert.schedule import TrainingPlan

# The published columns in the order in which phases look for theirs.
# Source: statistics/language_counts.csv of github.com/JHU-CLSP/mmBERT (MIT licence).
_COLUMNS = ("pretrain", "ext", "decay-mid", "decay-eng", "decay-all")
_CODE = "code"


@dataclass(frozen=True)
class LanguagePhase:
    """What one phase trains on in one language: tokens, and how often its text is passed."""

    tokens: float
    epochs: float


@dataclass(frozen=True)
class LanguageTable:
    """Tokens and epochs of every language in every phase, and what they were computed from.

    `languages` maps a language to one entry per phase, None where the phase does not use it.
    `same_text`: whether the phases draw from the same text, so that epochs add up over them.
    """

    origin: str
    same_text: bool
    phases: tuple[str, ...]
    languages: dict[str, tuple[LanguagePhase | None, ...]]

    def most_repeated(self) -> list[tuple[str, float]]:
        """Languages with their passes, most repeated first: over the run, or in a phase.

        Where each phase has a text of its own, the phase with the most counts.
        """
        combine = sum if self.same_text else max
        totals = {
            language: combine(entry.epochs for entry in entries if entry is not None)
            for language, entries in self.languages.items()
        }
        return sorted(totals.items(), key=lambda item: (-item[1], item[0]))


def published_counts() -> dict[str, dict[str, int]]:
    """{dataset: {language: tokens}} as the mmBERT authors published them; zero entries left out."""
    text = resources.files(__package__).joinpath("published_language_counts.csv").read_text()
    counts: dict[str, dict[str, int]] = {column: {} for column in _COLUMNS}
    for row in csv.DictReader(text.splitlines()):
        for column in _COLUMNS:
            if int(row[column]):
                counts[column][row["language"]] = int(row[column])
    return counts


def published_languages(recipe: Recipe, plan: TrainingPlan) -> LanguageTable | None:
    """The table for a recipe that selects the languages of mmBERT's published datasets, else None.

    Each phase takes the first dataset, not taken by an earlier phase, whose languages are the ones
    it selects. Those datasets are already resampled by temperature, so that a phase passes over
    all of one equally often: its tokens over the dataset's.
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
