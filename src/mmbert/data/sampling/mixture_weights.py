"""Tokens and pieces of each language of each source in each phase, computed from sizes.

Needs no text, so that a run can be planned from counts. A *component* is one language of one
source. A phase is divided among sources in proportion to their `tokens`. In a temperature-sampled
source, language l gets tokens in proportion to n_l ** temperature over the phase's languages; in a
budgeted source, in proportion to n_l over all its languages. Tokens cut off by `max_epochs` go to
the other languages of the source (water-filling).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmbert.data.shards.continuation_index import SPECIAL_TOKENS_PER_SEGMENT, payload_capacity
from mmbert.data.shards.corpus import Corpus
from mmbert.errors import RecipeError, SamplingError
from mmbert.recipe import Phase, Recipe, Source
from mmbert.schedule import training_plan

# Number of linear segments approximating a temperature that changes within a phase.
MOVING_TEMPERATURE_STEPS = 64
_NAMES_SHOWN = 10


@dataclass(frozen=True)
class ComponentSize:
    """Sizes of one language of one source (train split)."""

    source: str
    language: str
    tokens: int
    size_bytes: int
    pieces: int
    """Pieces at the run's longest context."""
    segments: tuple[int, ...]
    """Total segments of these pieces in each phase."""

    @property
    def name(self) -> str:
        """`source/language`."""
        return f"{self.source}/{self.language}"

    def row_tokens_per_piece(self, phase: int) -> float:
        """Return the mean row tokens of a piece in a phase, including begin and end tokens."""
        return (self.tokens + SPECIAL_TOKENS_PER_SEGMENT * self.segments[phase]) / self.pieces


@dataclass(frozen=True)
class PhaseMixture:
    """Mixture of one phase over C components, in the order of the sizes. Arrays are float64."""

    name: str
    knots: np.ndarray
    """[K + 1]: points of the phase's progress, 0 to 1."""
    pieces: np.ndarray
    """[K, C]: expected pieces between consecutive knots."""
    tokens: np.ndarray
    """[C]: row tokens of the phase."""
    epochs: np.ndarray
    """[C]: epochs over each component."""
    row_tokens_per_piece: np.ndarray
    """[C]: mean row tokens of a piece."""

    @property
    def active(self) -> np.ndarray:
        """Components sampled in this phase, bool [C]."""
        return self.tokens > 0


def component_sizes(corpus: Corpus, recipe: Recipe) -> tuple[ComponentSize, ...]:
    """Return the sizes of `corpus.components` at the recipe's contexts, in their order.

    Sources that are not in the recipe have zero pieces. Raises UserError if the piece index of the
    longest context is missing.
    """
    used = {source.folder for source in recipe.data.sources}
    longest = recipe.longest_context
    sizes = []
    for component in corpus.components:
        train = component.manifest.train
        pieces = 0
        if component.source in used and train.documents:
            pieces = train.documents + component.continuations(longest)
        segments = []
        for phase in recipe.phases:
            entry = train.pieces.get(phase.context)
            if entry is not None:
                segments.append(train.documents + entry.continuations)
            else:  # no index at this context: a lower bound that is nearly always close
                segments.append(max(pieces, -(-train.tokens // payload_capacity(phase.context))))
        sizes.append(
            ComponentSize(
                source=component.source,
                language=component.language,
                tokens=train.tokens,
                size_bytes=train.bytes,
                pieces=pieces,
                segments=tuple(segments),
            )
        )
    return tuple(sizes)


def phase_mixtures(sizes: Sequence[ComponentSize], recipe: Recipe) -> tuple[PhaseMixture, ...]:
    """Compute the mixture of every phase; a pure function of its arguments.

    Raises UserError if a source has no text for a phase that uses it, a selection matches no
    language, or the epoch caps leave too few tokens for a phase.
    """
    plan = training_plan(recipe)
    _check_folders(recipe.data.sources)
    drawn_before = np.zeros(len(sizes))  # expected pieces of earlier phases
    mixtures = []
    for index, phase in enumerate(recipe.phases):
        knots = _knots(phase)
        tokens = np.zeros((len(knots) - 1, len(sizes)))
        per_piece = np.array(
            [size.row_tokens_per_piece(index) if size.pieces else 1.0 for size in sizes]
        )
        for source, fraction in _source_fractions(recipe.data.sources, phase):
            members = _members(sizes, source, phase)
            budget = plan.phases[index].tokens * fraction * np.diff(knots)
            fractions = _language_fractions([sizes[m] for m in members], source, phase, knots)
            caps = np.full(len(members), np.inf)
            if source.max_epochs is not None:
                pieces = np.array([sizes[m].pieces for m in members], dtype=np.float64)
                left = np.maximum(0.0, source.max_epochs * pieces - drawn_before[members])
                caps = left * per_piece[members]
            tokens[:, members] = _fill(budget, fractions, caps, source, phase)
        pieces_drawn = tokens / per_piece
        phase_pieces = np.array([math.fsum(column) for column in pieces_drawn.T])
        available = np.array([max(1, size.pieces) for size in sizes], dtype=np.float64)
        mixtures.append(
            PhaseMixture(
                name=phase.name,
                knots=knots,
                pieces=pieces_drawn,
                tokens=np.array([math.fsum(column) for column in tokens.T]),
                epochs=phase_pieces / available,
                row_tokens_per_piece=per_piece,
            )
        )
        drawn_before += phase_pieces
    return tuple(mixtures)


def component_tiers(sizes: Sequence[ComponentSize], recipe: Recipe) -> np.ndarray:
    """Return the first phase that samples each component (-1: none), int64 [C]."""
    tiers = np.full(len(sizes), -1, dtype=np.int64)
    for index in reversed(range(len(recipe.phases))):
        phase = recipe.phases[index]
        for source, _ in _source_fractions(recipe.data.sources, phase):
            tiers[_members(sizes, source, phase)] = index
    return tiers


def _check_folders(sources: Sequence[Source]) -> None:
    """Reject sources that share a folder: both would draw the same text."""
    by_folder: dict[str, str] = {}
    for source in sources:
        other = by_folder.setdefault(source.folder, source.name)
        if other != source.name:
            raise RecipeError(
                f"sources '{other}' and '{source.name}' both read '{source.folder}'",
                remedy="give each source its own folder, or merge the two",
            )


def _knots(phase: Phase) -> np.ndarray:
    moves = phase.temperature.start != phase.temperature.end
    count = MOVING_TEMPERATURE_STEPS if moves else 1
    return np.arange(count + 1) / count


def _source_fractions(sources: Sequence[Source], phase: Phase) -> list[tuple[Source, float]]:
    """Return the sources of a phase with their fractions of its tokens."""
    if len(sources) == 1 and sources[0].tokens is None:
        return [(sources[0], 1.0)]
    weights = [(source, float((source.tokens or {}).get(phase.name, 0))) for source in sources]
    total = math.fsum(weight for _, weight in weights)
    if total <= 0:
        raise RecipeError(
            f"no source has tokens for phase '{phase.name}'",
            remedy="add an entry for it to data.sources.<name>.tokens",
        )
    return [(source, weight / total) for source, weight in weights if weight > 0]


def sampled_sources(sources: Sequence[Source], phase: Phase) -> list[Source]:
    """Return the sources that a phase samples."""
    return [source for source, _ in _source_fractions(sources, phase)]


def _members(sizes: Sequence[ComponentSize], source: Source, phase: Phase) -> list[int]:
    """Return the components of `source` that `phase` samples."""
    own = [i for i, size in enumerate(sizes) if size.source == source.folder and size.pieces]
    if not own:
        found = ", ".join(sorted({size.source for size in sizes})) or "nothing"
        raise SamplingError(
            f"source '{source.name}': the shards hold no text in '{source.folder}' "
            f"(they hold: {found})",
            remedy="preprocess it, set data.sources.<name>.path, or remove the source",
        )
    if source.sampling == "budget":  # budgeted sources always use all their languages
        return own
    chosen = [
        i
        for i in own
        if phase.languages.includes(
            sizes[i].language, tokens=sizes[i].tokens, size_bytes=sizes[i].size_bytes
        )
    ]
    if not chosen:
        raise SamplingError(
            f"phases.{phase.name}.languages selects none of the {len(own)} languages of source "
            f"'{source.name}'{_named(phase)}",
            remedy="name languages as iso639-3_Script, or lower the minimum size; the source "
            f"holds: {_some([sizes[i].language for i in own])}",
        )
    return chosen


def _named(phase: Phase) -> str:
    names = phase.languages.names
    return f"; it names {_some(names)}" if names else ""


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMES_SHOWN]) + (", …" if len(names) > _NAMES_SHOWN else "")


def _language_fractions(
    members: Sequence[ComponentSize], source: Source, phase: Phase, knots: np.ndarray
) -> np.ndarray:
    """Return the fractions of the source's tokens between knots, float64 [K, members].

    Each row sums to 1. Uses `math.pow` and `math.fsum` since numpy's vectorized versions differ in
    the last bit between processors, and the order of data must not.
    """
    start, end = phase.temperature.start, phase.temperature.end
    at_knots = []
    for x in knots:
        exponent = 1.0 if source.sampling == "budget" else start + (end - start) * float(x)
        weights = [math.pow(max(1, size.tokens), exponent) for size in members]
        total = math.fsum(weights)
        at_knots.append([weight / total for weight in weights])
    values = np.array(at_knots)
    return (values[1:] + values[:-1]) / 2


def _fill(
    budget: np.ndarray, fractions: np.ndarray, caps: np.ndarray, source: Source, phase: Phase
) -> np.ndarray:
    """Divide the budget [K] by fractions under caps; return tokens [K, members].

    Excess tokens of capped members go to the other members.
    """
    capped = np.zeros(len(caps), dtype=bool)
    while True:
        tokens = np.zeros_like(fractions)
        profile = fractions[:, capped]
        columns = np.array([math.fsum(column) for column in profile.T])
        tokens[:, capped] = profile / np.where(columns > 0, columns, 1.0) * caps[capped]
        left = np.array(
            [max(0.0, float(b) - math.fsum(row)) for b, row in zip(budget, tokens, strict=True)]
        )
        if capped.all():
            if math.fsum(left) > 1e-6 * math.fsum(budget):
                raise SamplingError(
                    f"source '{source.name}': max_epochs {source.max_epochs:g} leaves "
                    f"{math.fsum(caps):.4g} tokens for phase '{phase.name}', which needs "
                    f"{math.fsum(budget):.4g}",
                    remedy="raise max_epochs, lower the source's tokens, or select more languages",
                )
            return tokens
        free = fractions[:, ~capped]
        sums = np.array([math.fsum(row) for row in free])
        tokens[:, ~capped] = free * (left / sums)[:, None]
        totals = np.array([math.fsum(column) for column in tokens.T])
        over = ~capped & (totals > caps)
        if not over.any():
            return tokens
        capped |= over
