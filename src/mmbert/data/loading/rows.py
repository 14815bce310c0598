"""Rows: microbatches of packed, masked segments as fixed-shape numpy arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mmbert.data.loading.masking import MaskedRow, Masker
from mmbert.data.loading.packing import RowShape
from mmbert.data.loading.streams import StreamState
from mmbert.data.sampling.phase_sampler import (
    COMPONENT,
    DOCUMENT,
    OFFSET,
    SHARD,
    SIZE,
    START,
    segment_sizes,
)
from mmbert.data.shards.component import SplitName
from mmbert.data.shards.corpus import Corpus
from mmbert.errors import ShardsError
from mmbert.recipe import MaskRatioRange, mean_mask_ratio


@dataclass(frozen=True)
class Row:
    """One microbatch. T = row_tokens, S = max_segments, K = ceil(mask ratio · T): fixed per phase.

    In a causal phase, "masked" are the positions whose next tokens are predicted, and their ratio
    is the predicted share.

    Attributes:
        index: number of the row in the run.
        input_ids: int32 [T], masked unless causal; padded after the last segment.
        cu_seqlens: int32 [S + 1], starts of segments, then of the padding, then T repeated (a batch
            drops most of these).
        max_seqlen: the context; larger only if tiny segments leave too few slots for padding.
        segment_components: int32 [S], index into corpus.components; -1 for padding and unused.
        masked_positions: int32 [K], ascending; unused slots repeat the last position.
        labels: int32 [K], original or next tokens; 0 for unused slots.
        weights: float32 [K], 1 for a used slot, 0 otherwise.
        masked_components: int32 [K], -1 for unused slots.
        tokens: number of tokens without padding.
        documents: int64 [segments, 4]: component, document of the split, first token, tokens.
        stream_state: state of the row's stream after this row (None for validation rows).
    """

    index: int
    input_ids: np.ndarray
    cu_seqlens: np.ndarray
    max_seqlen: int
    segment_components: np.ndarray
    masked_positions: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    masked_components: np.ndarray
    tokens: int
    documents: np.ndarray
    stream_state: StreamState | None


class RowBuilder:
    """Builds rows from tables of segments, for masked or (`causal`) next tokens."""

    def __init__(
        self,
        corpus: Corpus,
        masker: Masker,
        shape: RowShape,
        *,
        mask_ratio: float | MaskRatioRange,
        context: int,
        split: SplitName = "train",
        causal: bool = False,
    ) -> None:
        self._corpus = corpus
        self._shape = shape
        self._ratio = mask_ratio
        self._context = context
        self._split: SplitName = split
        self._masker, self._causal = masker, causal

    def build(self, index: int, table: np.ndarray, state: StreamState | None) -> Row:
        """Build row number `index` from the segments in `table` [segments, COLUMNS].

        Raises ShardsError naming the shard if it contains an id outside the vocabulary.
        """
        row_tokens, slots = self._shape.row_tokens, self._shape.max_segments
        ends = np.cumsum(segment_sizes(table))
        used = int(ends[-1]) if len(ends) else 0
        cu_seqlens = np.full(slots + 1, row_tokens, dtype=np.int32)
        cu_seqlens[0] = 0
        cu_seqlens[1 : len(ends) + 1] = ends
        # Padding is split at the context, so that its attention costs no more than that of text.
        padding = np.arange(used + self._context, row_tokens, self._context)
        padding = padding[: slots - 1 - len(ends)]
        cu_seqlens[len(ends) + 1 : len(ends) + 1 + len(padding)] = padding
        components = np.full(slots, -1, dtype=np.int32)
        components[: len(table)] = table[:, COMPONENT]
        masked = self._predict(self._tokens(table, cu_seqlens, ends), index, ends)
        mask_slots = math.ceil(mean_mask_ratio(self._ratio) * row_tokens)
        count = len(masked.positions)
        positions, labels = np.zeros((2, mask_slots), dtype=np.int32)
        positions[:count], labels[:count] = masked.positions, masked.labels
        if count:
            positions[count:] = masked.positions[-1]
        weights = np.zeros(mask_slots, dtype=np.float32)
        weights[:count] = 1.0
        masked_components = np.full(mask_slots, -1, dtype=np.int32)
        masked_components[:count] = components[np.searchsorted(ends, masked.positions, "right")]
        return Row(
            index=index,
            input_ids=masked.input_ids,
            cu_seqlens=cu_seqlens,
            max_seqlen=max(self._context, int(np.diff(cu_seqlens).max())),
            segment_components=components,
            masked_positions=positions,
            labels=labels,
            weights=weights,
            masked_components=masked_components,
            tokens=used,
            documents=table[:, [COMPONENT, DOCUMENT, START, SIZE]],
            stream_state=state,
        )

    def _predict(self, ids: np.ndarray, index: int, ends: np.ndarray) -> MaskedRow:
        """Choose what is predicted of a row's tokens int32 [T], of documents that end at `ends`."""
        if isinstance(self._ratio, MaskRatioRange) or not self._causal:
            return self._masker.mask(ids, self._ratio, index, ends)
        return self._masker.next_tokens(ids, self._ratio, index)

    def _tokens(self, table: np.ndarray, cu_seqlens: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Return begin, text and end of every segment, then padding, int32 [T]."""
        description = self._corpus.tokenizer
        special = description.special_ids
        ids = np.full(self._shape.row_tokens, special.pad, dtype=np.int32)
        starts = cu_seqlens[: len(ends)]
        ids[starts] = special.begin
        ids[ends - 1] = special.end
        self._corpus.shards.copy_tokens(
            table[:, COMPONENT],
            self._split,
            table[:, SHARD],
            table[:, OFFSET],
            table[:, SIZE],
            ids,
            starts + 1,
        )
        lowest, highest = int(ids.min()), int(ids.max())
        if lowest < 0 or highest >= description.vocabulary_size:
            raise self._outside(table, lowest if lowest < 0 else highest)
        return ids

    def _outside(self, table: np.ndarray, token: int) -> ShardsError:
        for component, shard, offset, size in table[:, (COMPONENT, SHARD, OFFSET, SIZE)].tolist():
            owner = self._corpus.components[component]
            flat = self._corpus.shard(owner, self._split, shard).tokens
            if token in flat[offset : offset + size]:
                name = owner.split(self._split).shards[shard].name
                return ShardsError(
                    f"{owner.folder / name}.bin contains id {token}, outside the vocabulary of "
                    f"{self._corpus.tokenizer.vocabulary_size}",
                    remedy="check the damaged shard with `mmbert inspect --verify`, restore it "
                    "from a copy or preprocess the language again",
                )
        raise AssertionError("the id is in none of the row's segments")
