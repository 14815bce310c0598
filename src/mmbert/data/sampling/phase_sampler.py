"""Data order of one phase, shared by its streams: the sequence of pieces and their locations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmbert.data.sampling.consumption import Consumption
from mmbert.data.sampling.mixture import UNLIMITED, Mixture, stream_rotation
from mmbert.data.sampling.mixture_weights import ComponentSize, PhaseMixture, component_sizes
from mmbert.data.sampling.permutation import key_of, permute, splitmix64
from mmbert.data.shards.continuation_index import (
    SPECIAL_TOKENS_PER_SEGMENT,
    count_parts,
    part_bounds,
    pieces_file_name,
)
from mmbert.data.shards.corpus import Corpus
from mmbert.errors import ShardsError
from mmbert.recipe import Recipe
from mmbert.schedule import training_plan

# Columns of a table of segments (int64). NUMBER counts a component's pieces over all its epochs;
# START and SIZE are text tokens of the document; SHARD and OFFSET are their location.
COMPONENT, NUMBER, DOCUMENT, START, SIZE, SHARD, OFFSET = range(7)
COLUMNS = 7

READ_AHEAD_FROM = 64 << 20  # bytes of a shard


@dataclass(frozen=True)
class Pieces:
    """Locations of n pieces; int64 arrays [n]."""

    document: np.ndarray
    start: np.ndarray
    """First token within the document."""
    end: np.ndarray
    """Last token within the document + 1."""
    shard: np.ndarray
    offset: np.ndarray
    """Token offset of the document within the shard."""


class PieceLocator:
    """Maps a component's piece number to its document: epoch, permutation, part and shard."""

    def __init__(self, corpus: Corpus, recipe: Recipe) -> None:
        self.corpus = corpus
        self._context = recipe.longest_context
        self.sizes = component_sizes(corpus, recipe)
        self._pieces = np.array([size.pieces for size in self.sizes], dtype=np.int64)
        self._keys = np.array(
            [key_of(recipe.seed, "order", size.name) for size in self.sizes], dtype=np.uint64
        )

        self._train_documents = np.array(
            [component.manifest.train.documents for component in corpus.components], dtype=np.int64
        )
        self._has_big_shards = np.array(
            [
                any(shard.files.bin.bytes >= READ_AHEAD_FROM for shard in c.manifest.train.shards)
                for c in corpus.components
            ]
        )

    @property
    def pieces_per_epoch(self) -> np.ndarray:
        """Pieces of each component in one epoch, int64 [C]."""
        return self._pieces

    def epochs(self, components: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Return the epoch (int64) of each number of a component."""
        return numbers // self._pieces[components]

    def locate(self, components: np.ndarray, numbers: np.ndarray) -> Pieces:
        """Locate pieces given by component and number. Reads only indexes, no text."""
        per_epoch = self._pieces[components]
        epochs = numbers // per_epoch
        with np.errstate(over="ignore"):
            keys = splitmix64(self._keys[components] + epochs.astype(np.uint64))
        piece = permute(numbers - epochs * per_epoch, per_epoch, keys)
        document, part = self._documents(components, piece)
        shard, length, offset, following = self.corpus.shards.documents(
            components, "train", document
        )
        item, size = self.corpus.shards.token_bytes(components, "train", shard)
        # Documents are contiguous: each ends where the next begins, the last at the end of the
        # data. This catches a flipped bit in an index.
        ends = offset + length * item
        sound = (length >= 0) & (offset >= 0) & (offset % item == 0) & (ends <= size)
        sound &= ends == following
        sound &= (part >= 0) & (part < count_parts(length, self._context))
        if not sound.all():
            bad = int(np.argmin(sound))
            raise self._damaged(int(components[bad]), int(shard[bad]), int(document[bad]))
        start, end = part_bounds(length, self._context, part)
        return Pieces(document, start, end, shard, offset // item)

    def _documents(
        self, components: np.ndarray, piece: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return document and part of pieces; those past the documents are continuations."""
        document, part = piece.copy(), np.zeros(len(piece), dtype=np.int64)
        documents = self._train_documents[components]
        continued = np.flatnonzero(piece >= documents)
        if not len(continued):
            return document, part
        continued = continued[np.argsort(components[continued], kind="stable")]
        cuts = np.flatnonzero(np.diff(components[continued])) + 1
        for members in np.split(continued, cuts):
            component = self.corpus.components[int(components[members[0]])]
            first = documents[members[0]]
            index = self.corpus.continuation_index(component, self._context)
            entries = index[piece[members] - first]
            listed = entries["document"]
            if int(listed.min()) < 0 or int(listed.max()) >= first:
                raise self._damaged(component.index, 0, int(listed.max()))
            document[members] = listed
            part[members] = entries["part"]
        return document, part

    def read_ahead(self, table: np.ndarray) -> None:
        """Ask the OS to read the text of a table's segments in the background.

        Skips small shards, which are cached after a few pieces.
        """
        table = table[self._has_big_shards[table[:, COMPONENT]]]
        for component, shard, offset, size in table[:, (COMPONENT, SHARD, OFFSET, SIZE)].tolist():
            dataset = self.corpus.shard(self.corpus.components[component], "train", shard)
            if dataset.byte_count >= READ_AHEAD_FROM:
                dataset.read_ahead(offset, offset + size)

    def _damaged(self, component: int, shard: int, document: int) -> ShardsError:
        """Return the error for an index with an impossible entry."""
        owner = self.corpus.components[component]
        name = owner.manifest.train.shards[shard].name
        return ShardsError(
            f"{owner.folder / name}.idx or {pieces_file_name(self._context)} beside it is damaged: "
            f"document {document} is outside the data",
            remedy="restore the files from a copy, or remove summary.json from the source's "
            "folder and run the same preprocessing command again, which remakes the source",
        )


class PhaseSampler:
    """Sequence of pieces of one phase and their mean sizes; the same on every rank.

    Args:
        mixtures: mixtures of all phases.
        index: index of the phase.
        before: consumption of earlier phases.

    Attributes:
        digest: hash that identifies the sequence; a run resumes only if it is unchanged.
    """

    def __init__(
        self,
        locator: PieceLocator,
        recipe: Recipe,
        mixtures: tuple[PhaseMixture, ...],
        index: int,
        before: Consumption,
    ) -> None:
        phase, phase_mixture = recipe.phases[index], mixtures[index]
        self.index = index
        self.locator = locator
        self.streams = recipe.batch.quantum
        self.context = phase.context
        self.active = phase_mixture.active
        self.consumption = before
        names = tuple(component.name for component in locator.corpus.components)
        key = f"{recipe.seed}/{phase.name}/{index}"
        self.rotation_key = key_of(key, "rotation")
        self.digest: str = _digest(locator.sizes, recipe, index, phase_mixture)
        self.mixture = Mixture(
            phase_mixture.pieces,
            names,
            key,
            limits=before.draws_below(_epoch_limits(locator, recipe)),
        )
        self.row_tokens = recipe.batch.row_tokens
        self.mean_piece = float(phase_mixture.tokens.sum() / phase_mixture.pieces.sum())
        self.mean_segment = mean_segment(locator.sizes, phase_mixture, index)

    def draw(self, stream: int, position: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return components and numbers of `count` pieces of a stream from `position` on.

        Returns fewer if the epoch caps leave no more.
        """
        groups = np.arange(position, position + count, dtype=np.int64)
        turned = stream + stream_rotation(groups, self.rotation_key, self.streams)
        pieces = groups * self.streams + turned % self.streams
        if self.mixture.total is not None:
            pieces = pieces[: int(np.searchsorted(pieces, self.mixture.total))]
        components, draws = self.mixture.pieces(pieces)
        return components.astype(np.int64), self.consumption.numbers(components, draws)

    def segments(
        self, components: np.ndarray, numbers: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cut pieces to this phase's context.

        Returns:
            A table [segments, COLUMNS] in order, and the number of segments of each piece, int64
            [pieces].
        """
        pieces = self.locator.locate(components, numbers)
        return self.cut(components, numbers, pieces, pieces.start, pieces.end)

    def cut(
        self,
        components: np.ndarray,
        numbers: np.ndarray,
        pieces: Pieces,
        start: np.ndarray,
        end: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cut token ranges `start` to `end` of the pieces' documents, as `segments` cuts pieces."""
        counts = count_parts(end - start, self.context)
        owner = np.repeat(np.arange(len(counts)), counts)
        part = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        low, high = part_bounds((end - start)[owner], self.context, part)
        table = np.empty((len(owner), COLUMNS), dtype=np.int64)
        table[:, COMPONENT] = components[owner]
        table[:, NUMBER] = numbers[owner]
        table[:, DOCUMENT] = pieces.document[owner]
        table[:, START] = start[owner] + low
        table[:, SIZE] = high - low
        table[:, SHARD] = pieces.shard[owner]
        table[:, OFFSET] = pieces.offset[owner] + table[:, START]
        return table, counts


def mean_segment(
    sizes: tuple[ComponentSize, ...], phase_mixture: PhaseMixture, index: int
) -> float:
    """Return the mean row tokens of a segment of phase `index`, given its mixture."""
    cuts = [size.segments[index] / max(1, size.pieces) for size in sizes]
    segments = float(phase_mixture.pieces.sum(axis=0) @ np.array(cuts))
    return float(phase_mixture.tokens.sum()) / segments


def _epoch_limits(locator: PieceLocator, recipe: Recipe) -> np.ndarray:
    """Return the pieces of each component under its source's epoch cap, int64 [C]."""
    limits = np.full(len(locator.pieces_per_epoch), UNLIMITED)
    caps = {source.folder: source.max_epochs for source in recipe.data.sources}
    for component in locator.corpus.components:
        cap = caps.get(component.source)
        if cap is not None:
            limits[component.index] = int(cap * int(locator.pieces_per_epoch[component.index]))
    return limits


def _digest(
    sizes: tuple[ComponentSize, ...], recipe: Recipe, index: int, phase_mixture: PhaseMixture
) -> str:
    """Hash everything that determines the sequence of a phase (earlier phases have their own).

    Hashes the inputs of the arithmetic, not its results, whose last bits may differ between
    machines.
    """
    phase = recipe.phases[index]
    parts: list[object] = [
        (recipe.seed, index, phase.name, phase.context, recipe.longest_context),
        (phase.temperature, training_plan(recipe).phases[index].tokens),
        (recipe.batch.row_tokens, recipe.batch.quantum),
    ]
    for source in recipe.data.sources:
        weight = None if source.tokens is None else source.tokens.get(phase.name)
        parts.append((source.folder, source.sampling, weight, source.max_epochs))
    for size, active in zip(sizes, phase_mixture.active, strict=True):
        if active:
            parts.append((size.name, size.tokens, size.pieces, size.segments[index]))
    return f"{key_of(*parts):016x}"


def segment_sizes(table: np.ndarray) -> np.ndarray:
    """Return the row tokens of each segment of a table, including begin and end, int64."""
    return table[:, SIZE] + SPECIAL_TOKENS_PER_SEGMENT
