"""Data statistics for an estimate, from shards or from bounds and published token counts."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmbert.data.loading.packing import max_segments_per_row, row_shapes
from mmbert.data.sampling.mixture_weights import (
    ComponentSize,
    PhaseMixture,
    component_sizes,
    phase_mixtures,
)
from mmbert.data.shards.component import Component
from mmbert.data.shards.continuation_index import (
    SPECIAL_TOKENS_PER_SEGMENT,
    count_parts,
    part_bounds,
)
from mmbert.data.shards.corpus import Corpus, open_corpus
from mmbert.planner.languages import LanguagePhase, LanguageTable, published_languages
from mmbert.recipe import Recipe
from mmbert.schedule import TrainingPlan

# Documents sampled per language: enough for a mean length at any corpus size.
_DOCUMENTS_SAMPLED = 4096


@dataclass(frozen=True)
class DataStatistics:
    """Data properties used by an estimate."""

    vocabulary_size: int
    mean_lengths: dict[str, float]
    """Token-weighted mean document length in tokens, by phase."""
    document_slots: dict[str, int]
    """Maximum number of documents in a row, by phase."""
    length_origin: str
    """Source of the lengths, as a sentence for the user."""
    languages: LanguageTable | None
    sizes: tuple[ComponentSize, ...] | None = None
    """Sizes of the shards' components; None without shards."""


def gather_data_statistics(
    recipe: Recipe, steps: TrainingPlan, shards: Path | None
) -> DataStatistics:
    """Collect statistics from `shards`, or from upper bounds and mmBERT's published counts.

    Raises:
        UserError: the shards are damaged or cannot provide the recipe's mixture.
    """
    if shards is None:
        return DataStatistics(
            vocabulary_size=recipe.model.vocab_size or recipe.tokenizer.vocab_size,
            mean_lengths={phase.name: float(phase.context) for phase in recipe.phases},
            document_slots={
                phase.name: max_segments_per_row(recipe.batch.row_tokens, phase.context)
                for phase in recipe.phases
            },
            length_origin="Documents are assumed to fill the context: an upper bound on compute,"
            " a lower bound on attention's memory per document. Use --data for the actual lengths",
            languages=published_languages(recipe, steps),
        )
    corpus = open_corpus(shards)
    sizes = component_sizes(corpus, recipe)
    mixtures = phase_mixtures(sizes, recipe)
    shapes = zip(recipe.phases, row_shapes(sizes, recipe, mixtures), strict=True)
    return DataStatistics(
        vocabulary_size=corpus.tokenizer.vocabulary_size,
        mean_lengths=_mean_lengths(recipe, corpus, mixtures),
        document_slots={phase.name: shape.max_segments for phase, shape in shapes},
        length_origin=f"Document lengths are from {shards}",
        languages=_languages(corpus, mixtures, str(shards)),
        sizes=sizes,
    )


def _languages(corpus: Corpus, mixtures: tuple[PhaseMixture, ...], origin: str) -> LanguageTable:
    """Build one row per language, or per source and language if there are several sources."""
    several = len({component.source for component in corpus.components}) > 1
    rows: dict[str, tuple[LanguagePhase | None, ...]] = {}
    for index, component in enumerate(corpus.components):
        entries = tuple(
            LanguagePhase(float(mixture.tokens[index]), float(mixture.epochs[index]))
            if mixture.active[index]
            else None
            for mixture in mixtures
        )
        if any(entry is not None for entry in entries):
            rows[component.name if several else component.language] = entries
    return LanguageTable(
        origin=origin,
        same_text=True,
        phases=tuple(mixture.name for mixture in mixtures),
        languages=rows,
    )


def _mean_lengths(
    recipe: Recipe, corpus: Corpus, mixtures: tuple[PhaseMixture, ...]
) -> dict[str, float]:
    """Return the token-weighted mean segment length of each phase, special tokens included."""
    samples = {
        index: _sample(corpus, component)
        for index, component in enumerate(corpus.components)
        if any(mixture.active[index] for mixture in mixtures)
    }
    means = {}
    for phase, mixture in zip(recipe.phases, mixtures, strict=True):
        active = np.flatnonzero(mixture.active)
        lengths = [_mean_segment(samples[int(index)], phase.context) for index in active]
        means[phase.name] = float(np.average(lengths, weights=mixture.tokens[active]))
    return means


def _sample(corpus: Corpus, component: Component) -> np.ndarray:
    """Return the lengths (int64) of the component's first documents."""
    lengths = corpus.shard(component, "train", 0).lengths[:_DOCUMENTS_SAMPLED]
    return np.asarray(lengths, dtype=np.int64)


def _mean_segment(documents: np.ndarray, context: int) -> float:
    """Return Σ l² / Σ l over the segments that the documents are split into."""
    parts = count_parts(documents, context)
    owner = np.repeat(np.arange(len(documents)), parts)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(parts) - parts, parts)
    start, end = part_bounds(documents[owner], context, number)
    lengths = (end - start + SPECIAL_TOKENS_PER_SEGMENT).astype(np.float64)
    return float((lengths**2).sum() / lengths.sum())
