"""One phase's order of data, shared by its streams: which piece comes next, and where it lies."""

from __future__ import annotations

import itertools
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
from mmbert.errors import UserError
from mmbert.recipe import Recipe
from mmbert.schedule import training_plan

# Columns of a table of segments (int64). NUMBER counts a component's pieces over all its epochs;
# START and SIZE are text tokens of the document; SHARD and OFFSET say where they lie.
COMPONENT, NUMBER, DOCUMENT, START, SIZE, SHARD, OFFSET = range(7)
COLUMNS = 7

READ_AHEAD_FROM = 64 << 20  # bytes of a shard


@dataclass(frozen=True)
class Pieces:
    """Where pieces lie. int64 arrays [n]: document, first and last + 1 token within it, shard and
    token offset of the document within the shard."""

    document: np.ndarray
    start: np.ndarray
    end: np.ndarray
    shard: np.ndarray
    offset: np.ndarray


class PieceLocator:
    """Finds the document behind a component's number: epoch, permutation, cutting, shard."""

    def __init__(self, corpus: Corpus, recipe: Recipe) -> None:
        self.corpus = corpus
        self._context = recipe.longest_context
        self.sizes = component_sizes(corpus, recipe)
        self._pieces = np.array([size.pieces for size in self.sizes], dtype=np.int64)
        self._keys = np.array(
            [key_of(recipe.seed, "order", size.name) for size in self.sizes], dtype=np.uint64
        )

        self._has_big_shards = np.array(
            [
                any(shard.files.bin.bytes >= READ_AHEAD_FROM for shard in c.manifest.train.shards)
                for c in corpus.components
            ]
        )

    @property
    def pieces_per_epoch(self) -> np.ndarray:
        """int64 [C]: pieces of each component."""
        return self._pieces

    def epochs(self, components: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """int64: the epoch that each number of a component belongs to."""
        return numbers // self._pieces[components]

    def locate(self, components: np.ndarray, numbers: np.ndarray) -> Pieces:
        """Locate pieces given by component and number. Reads the indexes, never the text."""
        per_epoch = self._pieces[components]
        epochs = numbers // per_epoch
        with np.errstate(over="ignore"):
            keys = splitmix64(self._keys[components] + epochs.astype(np.uint64))
        piece = permute(numbers - epochs * per_epoch, per_epoch, keys)
        document, part = piece.copy(), np.zeros(len(piece), dtype=np.int64)
        length = np.empty(len(piece), dtype=np.int64)
        shard = np.zeros(len(piece), dtype=np.int64)
        offset = np.empty(len(piece), dtype=np.int64)  # in bytes, until they are checked
        following, item, size = np.empty((3, len(piece)), dtype=np.int64)
        order = np.argsort(components, kind="stable")
        cuts = np.flatnonzero(np.diff(components[order])) + 1
        borders = [0, *cuts.tolist(), len(order)] if len(order) else []
        for first, last in itertools.pairwise(borders):
            members = order[first:last]
            component = self.corpus.components[int(components[members[0]])]
            starts = component.train_starts
            own = document[members]
            if int(own.max()) >= starts[-1]:
                continued = own >= starts[-1]
                index = self.corpus.continuation_index(component, self._context)
                entries = index[own[continued] - starts[-1]]
                listed = entries["document"]
                if int(listed.min()) < 0 or int(listed.max()) >= starts[-1]:
                    raise self._damaged(component.index, 0, int(listed.max()))
                own[continued] = listed
                document[members] = own
                part[members[continued]] = entries["part"]
            if len(starts) == 2:  # one shard, as most languages have
                parts = [(0, members, own)]
            else:
                shards = np.searchsorted(starts, own, side="right") - 1
                shard[members] = shards
                parts = [
                    (number, members[shards == number], own[shards == number] - starts[number])
                    for number in np.unique(shards).tolist()
                ]
            for number, inside, places in parts:
                dataset = self.corpus.shard(component, "train", number)
                dataset.check_index_not_truncated()
                length[inside] = dataset.lengths[places]
                offset[inside] = dataset.offsets[places]
                following[inside] = dataset.next_offsets[places]
                item[inside] = dataset.dtype.itemsize
                size[inside] = dataset.byte_count
        # Documents lie one after the other: each ends where the next begins, the last one where
        # the data end. A flipped bit in an index does not pass this.
        ends = offset + length * item
        sound = (length >= 0) & (offset >= 0) & (offset % item == 0) & (ends <= size)
        sound &= (ends == following) | ((following == 0) & (ends == size))
        sound &= (part >= 0) & (part < count_parts(length, self._context))
        if not sound.all():
            bad = int(np.argmin(sound))
            raise self._damaged(int(components[bad]), int(shard[bad]), int(document[bad]))
        start, end = part_bounds(length, self._context, part)
        return Pieces(document, start, end, shard, offset // item)

    def read_ahead(self, table: np.ndarray) -> None:
        """Ask the system to read the text of a table's segments in the background.

        Small shards are left out: they are in memory after a few pieces anyway.
        """
        table = table[self._has_big_shards[table[:, COMPONENT]]]
        for component, shard, offset, size in table[:, (COMPONENT, SHARD, OFFSET, SIZE)].tolist():
            dataset = self.corpus.shard(self.corpus.components[component], "train", shard)
            if dataset.byte_count >= READ_AHEAD_FROM:
                dataset.read_ahead(offset, offset + size)

    def _damaged(self, component: int, shard: int, document: int) -> UserError:
        """What to say of an index whose entry cannot be."""
        owner = self.corpus.components[component]
        name = owner.manifest.train.shards[shard].name
        return UserError(
            f"{owner.folder / name}.idx or {pieces_file_name(self._context)} beside it is damaged: "
            f"document {document} lies outside the data",
            remedy="restore the files from a copy, or remove the language's folder and run the "
            "preprocessing again",
        )


class PhaseSampler:
    """The sequence of pieces of one phase and their mean sizes; the same on every rank.

    `mixes` are those of all phases; `before` is what earlier phases consumed. `digest` identifies
    the sequence: a run goes on only with the sequence it was begun with.
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
        """Components and numbers of the `count` pieces of a stream from its `position` on.

        Fewer, where the epoch caps leave no more.
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
        """The pieces cut to this phase's context: a table [segments, COLUMNS] in order, and int64
        [pieces] how many segments each has."""
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
        """Like `segments`, for the token ranges `start` … `end` of the pieces' documents."""
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
    """Mean row tokens of a segment of phase `index`, whose mix is `mix_`."""
    cuts = [size.segments[index] / max(1, size.pieces) for size in sizes]
    segments = float(phase_mixture.pieces.sum(axis=0) @ np.array(cuts))
    return float(phase_mixture.tokens.sum()) / segments


def _epoch_limits(locator: PieceLocator, recipe: Recipe) -> np.ndarray:
    """int64 [C]: how many pieces of each component exist under its source's epoch cap."""
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
    """A hash of all that the sequence of a phase follows from (earlier phases have their own).

    Of what goes into the arithmetic, not of what comes out: last bits may differ between machines.
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
    """int64: row tokens that each segment of a table takes, begin and end included."""
    return table[:, SIZE] + SPECIAL_TOKENS_PER_SEGMENT
