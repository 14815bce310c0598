"""What a plan knows of the data: from the shards at hand, else from published figures."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmbert.data.loading.packing import row_shapes, segments_in_a_row
from mmbert.data.sampling.mixture_weights import PhaseMix, component_sizes, phase_mixes
from mmbert.data.shards.continuation_index import (
    SPECIAL_TOKENS_PER_SEGMENT,
    count_parts,
    part_bounds,
)
from mmbert.data.shards.corpus import Component, Corpus, open_corpus
from mmbert.planner.languages import LanguagePhase, LanguageTable, published_languages
from mmbert.recipe import Recipe
from mmbert.schedule import TrainingPlan

# Documents of each language whose lengths are looked at: enough for a mean, at any size.
_DOCUMENTS_SAMPLED = 4096


@dataclass(frozen=True)
class DataStatistics:
    """Vocabulary size, token-weighted mean document length and most slots for documents in a row by
    phase, languages; and whence."""

    vocabulary_size: int
    mean_lengths: dict[str, float]
    document_slots: dict[str, int]
    length_origin: str
    languages: LanguageTable | None


def gather_data_statistics(
    recipe: Recipe, steps: TrainingPlan, shards: Path | None
) -> DataStatistics:
    """From `shards` where they are given, else upper bounds and mmBERT's published counts.

    UserError: unsound shards, or a mix that they cannot give.
    """
    if shards is None:
        return DataStatistics(
            vocabulary_size=recipe.model.vocab_size or recipe.tokenizer.vocab_size,
            mean_lengths={phase.name: float(phase.context) for phase in recipe.phases},
            document_slots={
                phase.name: segments_in_a_row(recipe.batch.row_tokens, phase.context)
                for phase in recipe.phases
            },
            length_origin="Documents were taken to fill the context: an upper bound of the"
            " arithmetic, a lower one of the memory that attention takes a document. --data gives"
            " their true lengths",
            languages=published_languages(recipe, steps),
        )
    corpus = open_corpus(shards)
    sizes = component_sizes(corpus, recipe)
    mixes = phase_mixes(sizes, recipe)
    shapes = zip(recipe.phases, row_shapes(sizes, recipe, mixes), strict=True)
    return DataStatistics(
        vocabulary_size=corpus.tokenizer.vocabulary_size,
        mean_lengths=_mean_lengths(recipe, corpus, mixes),
        document_slots={phase.name: shape.max_segments for phase, shape in shapes},
        length_origin=f"Document lengths are those of {shards}",
        languages=_languages(corpus, mixes, str(shards)),
    )


def _languages(corpus: Corpus, mixes: tuple[PhaseMix, ...], origin: str) -> LanguageTable:
    """One row per language, or per source and language where there are several sources."""
    several = len({component.source for component in corpus.components}) > 1
    rows: dict[str, tuple[LanguagePhase | None, ...]] = {}
    for index, component in enumerate(corpus.components):
        entries = tuple(
            LanguagePhase(float(mix.tokens[index]), float(mix.epochs[index]))
            if mix.active[index]
            else None
            for mix in mixes
        )
        if any(entry is not None for entry in entries):
            rows[component.name if several else component.language] = entries
    return LanguageTable(
        origin=origin,
        same_text=True,
        phases=tuple(mix.name for mix in mixes),
        languages=rows,
    )


def _mean_lengths(recipe: Recipe, corpus: Corpus, mixes: tuple[PhaseMix, ...]) -> dict[str, float]:
    """Per phase the token-weighted mean length of what a row holds, begin and end included."""
    samples = {
        index: _sample(corpus, component)
        for index, component in enumerate(corpus.components)
        if any(mix.active[index] for mix in mixes)
    }
    means = {}
    for phase, mix in zip(recipe.phases, mixes, strict=True):
        active = np.flatnonzero(mix.active)
        lengths = [_mean_segment(samples[int(index)], phase.context) for index in active]
        means[phase.name] = float(np.average(lengths, weights=mix.tokens[active]))
    return means


def _sample(corpus: Corpus, component: Component) -> np.ndarray:
    """int64 lengths of the component's first documents."""
    lengths = corpus.shard(component, "train", 0).lengths[:_DOCUMENTS_SAMPLED]
    return np.asarray(lengths, dtype=np.int64)


def _mean_segment(documents: np.ndarray, context: int) -> float:
    """Σ l² / Σ l over the segments into which the documents are cut."""
    parts = count_parts(documents, context)
    owner = np.repeat(np.arange(len(documents)), parts)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(parts) - parts, parts)
    start, end = part_bounds(documents[owner], context, number)
    lengths = (end - start + SPECIAL_TOKENS_PER_SEGMENT).astype(np.float64)
    return float((lengths**2).sum() / lengths.sum())
