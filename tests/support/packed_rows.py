"""Rows of documents of web-like lengths, packed and masked as in training."""

import math

import numpy as np

from mmbert.data.loading.packing import max_segments_per_row
from mmbert.data.loading.rows import Row
from mmbert.data.shards.continuation_index import count_parts, part_bounds

MASK_ID = 4


def web_lengths(generator: np.random.Generator, context: int, tokens: int) -> list[int]:
    """Draw lengths of web documents (log-normal, median 500, mean 916), split at the context."""
    lengths: list[int] = []
    while sum(lengths) < tokens:
        length = max(16, int(generator.lognormal(np.log(500), np.sqrt(2 * np.log(916 / 500)))))
        starts, ends = part_bounds(length, context, np.arange(count_parts(length, context)))
        lengths += (ends - starts + 2).tolist()
    return lengths


def packed_rows(
    count: int, *, tokens: int, context: int, mask_ratio: float, vocabulary: int, seed: int = 21
) -> list[Row]:
    """Return `count` full rows of `tokens` tokens with equal shapes and Zipf token frequencies."""
    generator = np.random.default_rng(seed)
    # As many slots as in training, most of them empty.
    mean = float(np.mean(web_lengths(np.random.default_rng(seed), context, tokens)))
    segments = max_segments_per_row(tokens, mean)
    return [
        packed_row(index, generator, tokens, context, mask_ratio, vocabulary, segments)
        for index in range(count)
    ]


def packed_row(
    index: int,
    generator: np.random.Generator,
    tokens: int,
    context: int,
    mask_ratio: float,
    vocabulary: int,
    segments: int,
) -> Row:
    """Return one row; the last document is truncated to fill it."""
    lengths = web_lengths(generator, context, tokens)[: segments - 1]
    ends = np.minimum(np.cumsum(lengths), tokens)
    ends = np.append(ends[ends < tokens], tokens)
    cu_seqlens = np.full(segments + 1, tokens, dtype=np.int32)
    cu_seqlens[0], cu_seqlens[1 : len(ends) + 1] = 0, ends
    ids = np.minimum(generator.zipf(1.2, tokens) + MASK_ID, vocabulary - 1).astype(np.int32)
    slots = math.ceil(mask_ratio * tokens)
    filled = round(mask_ratio * tokens)
    positions, labels = np.zeros((2, slots), dtype=np.int32)
    positions[:filled] = np.sort(generator.permutation(tokens)[:filled])
    positions[filled:] = positions[filled - 1]
    labels[:filled] = ids[positions[:filled]]
    weights = np.zeros(slots, dtype=np.float32)
    weights[:filled] = 1.0
    components = np.full(slots, -1, dtype=np.int32)
    components[:filled] = 0
    of_segments = np.full(segments, -1, dtype=np.int32)
    of_segments[: len(ends)] = 0
    masked = ids.copy()
    masked[positions[:filled]] = MASK_ID
    return Row(
        index=index,
        input_ids=masked,
        cu_seqlens=cu_seqlens,
        max_seqlen=context,
        segment_components=of_segments,
        masked_positions=positions,
        labels=labels,
        weights=weights,
        masked_components=components,
        tokens=tokens,
        documents=np.zeros((len(ends), 4), dtype=np.int64),
        stream_state=None,
    )


def document_lengths(row: Row) -> np.ndarray:
    """Return the lengths of a row's documents, int64."""
    lengths = np.diff(row.cu_seqlens.astype(np.int64))
    return lengths[lengths > 0]
