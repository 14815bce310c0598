"""Fixed validation rows, and the loss of a unigram model on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np

from mmbert.data.loading.masking import row_masker
from mmbert.data.loading.packing import RowShape, choose_segments
from mmbert.data.loading.rows import Row, RowBuilder
from mmbert.data.sampling.loss_table import LossTable
from mmbert.data.sampling.permutation import key_of, permute
from mmbert.data.sampling.phase_sampler import (
    COLUMNS,
    COMPONENT,
    DOCUMENT,
    OFFSET,
    SHARD,
    SIZE,
    segment_sizes,
)
from mmbert.data.shards.component import Component
from mmbert.data.shards.continuation_index import part_bounds
from mmbert.data.shards.corpus import Corpus
from mmbert.errors import RecipeError
from mmbert.recipe import EvaluationSettings, MaskingSettings

UNIGRAM_TOKENS_PER_COMPONENT = 50_000
Share = Callable[[Callable[[int, int], Any]], list[Any]]
"""Calls a function with the rank and the number of ranks on each; returns all results in order."""


def alone(function: Callable[[int, int], Any]) -> list[Any]:
    """Share with nobody."""
    return [function(0, 1)]


def validation_rows(
    corpus: Corpus,
    *,
    sources: AbstractSet[str],
    settings: EvaluationSettings,
    context: int,
    row_tokens: int,
    masking: MaskingSettings,
    causal: bool = False,
    rank: int = 0,
    ranks: int = 1,
    share: Share = alone,
) -> list[Row]:
    """Build one rank's validation rows from the held-out split of every component.

    Documents and masks are independent of the run's seed and the number of ranks.
    Documents longer than `context` are represented by their first part.

    Args:
        sources: folders of the sources to evaluate.
        settings: number of documents per component and mask ratio, or predicted share.
        context: maximum tokens of a document, including begin and end tokens.
        masking: replacement of masked tokens; spans are left out.
        causal: predict next tokens instead: those that are masked otherwise, without whole words.
        rank, ranks: data rank and number of ranks. Every rank gets the same number of rows; some
            may be empty (all weights 0).
        share: divides the search for the documents among all ranks, so that each opens the
            held-out shards of its part of the languages, and those of its rows.

    Raises:
        RecipeError: the context exceeds a row.
    """
    if context > row_tokens:
        raise RecipeError(
            f"evaluation.context {context} exceeds batch.row_tokens {row_tokens}",
            remedy="lower evaluation.context: a held-out document must fit a row",
        )
    components = [component for component in corpus.components if component.source in sources]

    def segments(member: int, members: int) -> list[np.ndarray]:
        return [
            _segments(corpus, component, settings.documents_per_language, context)
            for component in components[member::members]
        ]

    parts = share(segments)
    tables = [parts[number % len(parts)][number // len(parts)] for number in range(len(components))]
    remaining = np.concatenate([np.empty((0, COLUMNS), dtype=np.int64), *tables])
    mean = float(segment_sizes(remaining).mean()) if len(remaining) else context
    shape = RowShape.of(row_tokens, mean)
    builder = RowBuilder(
        corpus,
        row_masker(corpus, masking.held_out(), key_of("held-out masks")),
        shape,
        mask_ratio=settings.mask_ratio,
        context=context,
        split="heldout",
        causal=causal,
    )
    packed = []
    while len(remaining):
        chosen = choose_segments(segment_sizes(remaining), shape)
        packed.append(remaining[chosen])
        remaining = np.delete(remaining, chosen, axis=0)
    packed += [np.empty((0, COLUMNS), dtype=np.int64)] * (-len(packed) % ranks)
    return [builder.build(index, packed[index], None) for index in range(rank, len(packed), ranks)]


def _segments(corpus: Corpus, component: Component, count: int, context: int) -> np.ndarray:
    """Return the table of the first parts of `count` held-out documents of a component."""
    total = component.manifest.heldout.documents
    key = key_of("held-out", component.name)
    table = np.zeros((min(count, total), COLUMNS), dtype=np.int64)
    table[:, COMPONENT] = component.index
    table[:, DOCUMENT] = permute(np.arange(len(table)), total, key)
    for row in table:
        shard, place = corpus.locate(component, "heldout", int(row[DOCUMENT]))
        dataset = corpus.shard(component, "heldout", shard)
        tokens = dataset.sequence(place)
        row[SHARD] = shard
        row[OFFSET] = int(dataset.offsets[place]) // dataset.dtype.itemsize
        row[SIZE] = int(part_bounds(len(tokens), context, 0)[1])
    return table


def unigram_loss(
    corpus: Corpus,
    rows: Sequence[Row],
    *,
    counts: np.ndarray | None = None,
    tokens_per_component: int = UNIGRAM_TOKENS_PER_COMPONENT,
) -> LossTable:
    """Compute the loss of a unigram model with add-one smoothing over the text ids.

    `counts`: sum of the `unigram_counts` of all ranks; None: count here.
    """
    if counts is None:
        counts = unigram_counts(corpus, tokens_per_component=tokens_per_component)
    specials = list(corpus.tokenizer.special_ids.all())
    text_ids = corpus.tokenizer.vocabulary_size - len(specials)
    total = int(counts.sum()) - int(counts[specials].sum()) + text_ids
    losses = math.log(total) - np.log(counts + 1.0)
    used = [row.weights > 0 for row in rows]
    empty = [np.empty(0, dtype=np.int32)]
    labels = np.concatenate(
        empty + [row.labels[mask] for row, mask in zip(rows, used, strict=True)]
    )
    owners = np.concatenate(
        empty + [row.masked_components[mask] for row, mask in zip(rows, used, strict=True)]
    )
    components = len(corpus.components)
    return LossTable(
        loss=np.bincount(owners, losses[labels], minlength=components).astype(np.float64),
        count=np.bincount(owners, minlength=components).astype(np.float64),
    )


def unigram_counts(
    corpus: Corpus,
    rank: int = 0,
    ranks: int = 1,
    *,
    tokens_per_component: int = UNIGRAM_TOKENS_PER_COMPONENT,
) -> np.ndarray:
    """Count the ids in a rank's part of the components, int64 [vocabulary].

    Reads at least `tokens_per_component` tokens of a component's train split, or all of them if
    there are fewer, in a fixed random order.
    """
    vocabulary = corpus.tokenizer.vocabulary_size
    counts = np.zeros(vocabulary, dtype=np.int64)
    for component in corpus.components[rank::ranks]:
        counts += _token_counts(corpus, component, tokens_per_component, vocabulary)
    return counts


def _token_counts(corpus: Corpus, component: Component, enough: int, vocabulary: int) -> np.ndarray:
    """Count each id in a sample of a component's train split, int64 [vocabulary]."""
    total = component.manifest.train.documents
    parts: list[np.ndarray] = []
    read = 0
    for first in range(0, total, 256):
        if read >= enough:
            break
        places = np.arange(first, min(first + 256, total))
        for document in permute(places, total, key_of("unigram", component.name)).tolist():
            # a huge document (100 MB) contributes only its beginning
            tokens = corpus.document(component, "train", document)[: enough - read]
            parts.append(tokens)
            read += len(tokens)
            if read >= enough:
                break
    if not parts:
        return np.zeros(vocabulary, dtype=np.int64)
    return np.bincount(np.concatenate(parts), minlength=vocabulary)
