"""Data state of a checkpoint, and the cursor that restores it and moves between phases."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict, cast

import numpy as np
import xxhash

from mmbert.data.loading.streams import (
    StreamState,
    close_phase,
    initial_state,
    next_consumption,
    open_phase,
)
from mmbert.data.sampling.consumption import Consumption, PhaseEnd
from mmbert.data.sampling.mixture_weights import phase_mixtures
from mmbert.data.sampling.phase_sampler import PhaseSampler, PieceLocator
from mmbert.data.shards.corpus import Corpus
from mmbert.data.shards.data_identity import (
    check_unchanged,
    data_identity,
    describe_other_components,
)
from mmbert.errors import CheckpointError, ResumeError
from mmbert.recipe import Recipe
from mmbert.schedule import TrainingPlan

STATE_FORMAT = 1


class EndedPhase(TypedDict):
    """Pieces drawn by each stream, and [component, number] of whole pieces returned unused."""

    positions: list[int]
    returned: list[list[int]]


class DataState(TypedDict):
    """Position in the order of data before `step`; JSON-serializable.

    Component indices refer to `components`, the names at the time of writing, so that a corpus may
    gain languages. `digests` identify the sequences of the phases started so far, `checksums` and
    `indexes` the contents of the components (see `DataIdentity`; missing in states of earlier
    versions); `streams` (by stream number) holds those of one rank or of all.
    """

    format: int
    step: int
    phase: int
    components: list[str]
    checksums: NotRequired[list[str]]
    indexes: NotRequired[list[str]]
    digests: list[str]
    ended: list[EndedPhase]
    streams: dict[str, StreamState]


_SHARED = ("format", "step", "phase", "components", "checksums", "indexes", "digests", "ended")


def merge_states(states: Sequence[DataState]) -> DataState:
    """Merge the states of the data ranks into one. Raises ValueError on a mismatch."""
    first = states[0]
    merged = dict(first)
    streams: dict[str, StreamState] = {}
    for state in states:
        for key in _SHARED:
            if state.get(key) != first.get(key):
                raise ValueError(f"data states of different ranks differ in {key}")
        streams.update(state["streams"])
    merged["streams"] = {key: streams[key] for key in sorted(streams, key=int)}
    return merged  # type: ignore[return-value]


def gather_states(state: DataState, gather: Callable[[Any], Sequence[Any]]) -> list[DataState]:
    """Gather the states of all ranks, sending of what they share only its digest; collective.

    The names and checksums of 1,833 components, from each of 1,024 ranks to each, would be 170 MB
    for every rank to receive.

    Args:
        gather: returns every rank's picklable value on every rank.

    Raises:
        ValueError: the states differ in what they must share.
    """
    shared = {key: value for key, value in state.items() if key in _SHARED}
    digests = {key: _digest(value) for key, value in shared.items()}
    states: list[DataState] = []
    for others, streams in gather((digests, state["streams"])):
        for key in _SHARED:
            if others.get(key) != digests.get(key):
                raise ValueError(f"data states of different ranks differ in {key}")
        states.append(cast(DataState, {**shared, "streams": streams}))
    return states


def _digest(value: object) -> str:
    return str(xxhash.xxh3_128_hexdigest(json.dumps(value).encode()))


def check_data_state(
    corpus: Corpus, recipe: Recipe, plan: TrainingPlan, state: Mapping[str, object]
) -> None:
    """Compare the data state of a checkpoint, which may be empty, with shards and recipe.

    Raises:
        ResumeError: they would continue with other text, or another order of it.
    """
    if state:
        DataCursor(corpus, recipe, plan, cast(DataState, state))


def planned_state(corpus: Corpus, recipe: Recipe, plan: TrainingPlan, step: int) -> DataState:
    """Return the state before `step` of a run that has drawn no data itself.

    Every stream is at the place that the plan expects, from the mean size of a phase's pieces, so
    that mixture, temperature and epoch caps continue as planned. Nothing is read for it.
    """
    cursor = DataCursor(corpus, recipe, plan, None)
    current = plan.phases[plan.at(step).phase_index]

    def streams(rows: int) -> list[StreamState]:
        sampler = cursor.sampler
        pieces = rows * sampler.row_tokens / sampler.mean_piece
        if sampler.mixture.total is not None:
            pieces = min(pieces, sampler.mixture.total)
        state = initial_state() | {"position": int(pieces // sampler.streams)}
        return [StreamState(**state) for _ in range(sampler.streams)]

    for earlier in plan.phases[: current.index]:
        cursor.advance(streams(earlier.rows))
    now = streams(plan.at(step).first_row - current.first_row)
    return cursor.state_dict(step, dict(enumerate(now)))


class DataCursor:
    """Sampler of the current phase and the states of all its streams; the same on every rank.

    Starts from a checkpoint's state (None: the beginning of the run); `advance` moves it to the
    next phase.
    """

    def __init__(
        self, corpus: Corpus, recipe: Recipe, plan: TrainingPlan, state: DataState | None
    ) -> None:
        self.locator = PieceLocator(corpus, recipe)
        self._corpus, self._recipe, self._plan = corpus, recipe, plan
        self._mixtures = phase_mixtures(self.locator.sizes, recipe)
        self._names = [component.name for component in corpus.components]
        self._identity = data_identity(corpus, recipe.longest_context)
        self._digests: list[str] = []
        self._ended: list[EndedPhase] = []
        count = recipe.batch.quantum
        self.sampler = self._open_sampler(0, Consumption.empty(len(corpus.components)))
        self.streams: list[StreamState] = [initial_state() for _ in range(count)]
        self.step = 0
        if state is not None:
            self._restore(state, count)

    def advance(self, streams: Sequence[StreamState]) -> None:
        """End the current phase with the states of all streams and start the next one."""
        end, remainders = close_phase(self.locator, list(streams))
        self._ended.append(
            {
                "positions": end.positions.tolist(),
                "returned": np.stack(
                    (end.returned_components, end.returned_numbers), axis=1
                ).tolist(),
            }
        )
        self.sampler = self._open_sampler(
            self.sampler.index + 1, next_consumption(self.sampler, end)
        )
        self.streams = open_phase(self.sampler, remainders)

    def state_dict(self, step: int, streams: dict[int, StreamState]) -> DataState:
        """Return the state of the given streams of the current phase before `step`."""
        return {
            "format": STATE_FORMAT,
            "step": step,
            "phase": self.sampler.index,
            "components": self._names,
            "checksums": self._identity["checksums"],
            "indexes": self._identity["indexes"],
            "digests": list(self._digests),
            "ended": list(self._ended),
            "streams": {str(number): streams[number] for number in sorted(streams)},
        }

    def _open_sampler(self, index: int, before: Consumption) -> PhaseSampler:
        sampler = PhaseSampler(self.locator, self._recipe, self._mixtures, index, before)
        self._digests.append(sampler.digest)
        return sampler

    def _restore(self, state: DataState, count: int) -> None:
        if state["format"] != STATE_FORMAT:
            raise CheckpointError(
                f"the checkpoint's data state has format {state['format']}, "
                f"this version reads {STATE_FORMAT}",
                remedy="resume with the version that wrote it",
            )
        if set(state["streams"]) != {str(number) for number in range(count)}:
            raise ResumeError(
                f"the checkpoint has {len(state['streams'])} data streams, the recipe has "
                f"batch.quantum={count}",
                remedy="restore batch.quantum; it cannot change during a run",
            )
        # Before the order of a phase, which depends on the sizes of all its languages.
        self._check_content(state, "checksums", "shards")
        rename = self._renaming(state)
        for index, ended in enumerate(state["ended"]):
            self._check_digest(state, index)
            returned = np.array(ended["returned"], dtype=np.int64).reshape(-1, 2)
            end = PhaseEnd(
                np.array(ended["positions"], dtype=np.int64), rename[returned[:, 0]], returned[:, 1]
            )
            self._ended.append(
                {
                    "positions": list(ended["positions"]),
                    "returned": np.stack(
                        (end.returned_components, end.returned_numbers), axis=1
                    ).tolist(),
                }
            )
            self.sampler = self._open_sampler(index + 1, next_consumption(self.sampler, end))
        self._check_digest(state, self.sampler.index)
        self._check_content(state, "indexes", "piece indexes")
        self.step = state["step"]
        self.streams = [_renamed(state["streams"][str(number)], rename) for number in range(count)]
        first = self._plan.phases[self.sampler.index].first_step
        ends = self._plan.phases[self.sampler.index].end_step
        if not first <= self.step <= ends:
            raise ResumeError(
                f"the checkpoint's data state is at step {self.step}, but phase "
                f"'{self._recipe.phases[self.sampler.index].name}' has steps {first} to {ends}",
                remedy="restore the recipe saved in the checkpoint",
            )
        if self.step == ends and self.sampler.index + 1 < len(self._plan.phases):
            self.advance(self.streams)

    def _renaming(self, state: DataState) -> np.ndarray:
        """Map the state's component indices to this corpus's (int64; -1: missing)."""
        found = [self._corpus.named(name) for name in state["components"]]
        return np.array([-1 if component is None else component.index for component in found])

    def _used(self, phase: int) -> set[int]:
        """Return the components that the phases up to `phase` draw from."""
        active = [mixture.active for mixture in self._mixtures[: phase + 1]]
        return set(np.flatnonzero(np.any(active, axis=0)).tolist())

    def _check_content(
        self, state: DataState, kind: Literal["checksums", "indexes"], what: str
    ) -> None:
        before = state.get(kind)
        if before is not None:
            used = self._used(state["phase"])
            check_unchanged(
                state["components"], before, self._corpus, self._identity[kind], used, what
            )

    def _check_digest(self, state: DataState, index: int) -> None:
        if state["digests"][index] != self._digests[index]:
            others = describe_other_components(state["components"], self._corpus, self._used(index))
            raise ResumeError(
                f"phase '{self._recipe.phases[index].name}' was started with another order of "
                f"data: {others or _other_mixture(state)}",
                remedy="restore the shards and the recipe saved in the checkpoint, or start a new "
                "run; phases that have not started may change freely",
            )


def _other_mixture(state: DataState) -> str:
    """Return why the order of a phase differs, though no language was added or removed."""
    if "checksums" in state:
        return "the recipe's mixture has changed"
    return "the recipe's mixture or the shards have changed"


def _renamed(state: StreamState, rename: np.ndarray) -> StreamState:
    pending = [[int(rename[entry[0]]), *entry[1:]] for entry in state["carried"]]
    deferred = [[int(rename[entry[0]]), *entry[1:]] for entry in state["kept"]]
    if any(entry[0] < 0 for entry in (*pending, *deferred)):
        raise ResumeError(
            "the shards lack a language with text pending in the checkpoint",
            remedy="restore the shards that the run was started with",
        )
    return {"position": state["position"], "carried": pending, "kept": deferred}
