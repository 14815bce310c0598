"""Ordered rows of one data rank from any step of the run, optionally read ahead."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

from mmbert.data.loading.data_state import DataCursor, DataState, merge_states
from mmbert.data.loading.masking import row_masker
from mmbert.data.loading.row_source import RowSource, rows_of_rank
from mmbert.data.loading.rows import Row
from mmbert.data.loading.worker_processes import WorkerPool
from mmbert.data.shards.corpus import Corpus
from mmbert.recipe import Recipe
from mmbert.recipe.division import check_data_ranks
from mmbert.schedule import PhasePlan, TrainingPlan

__all__ = ["DataState", "Exchange", "RowLoader", "merge_states"]

Exchange = Callable[[DataState], Sequence[DataState]]

_MAX_STATES = 16


class RowLoader:
    """Iterator over a data rank's rows from `first_step` to the end of the run.

    Row i of the run is built by stream i mod V (V = `batch.quantum`) for data rank i mod
    `data_ranks`. Its contents are independent of `data_ranks` and `workers`.

    Args:
        workers: number of read-ahead processes (without torch); 0 builds rows in this process.
        exchange: all-gather of the data ranks' states at the end of a phase, called on every rank
            at the same row; not needed for one data rank.

    Raises:
        UserError: the number of data ranks does not divide the streams, or the state belongs to
            another recipe or corpus.
        ValueError: a required exchange is missing.
    """

    def __init__(
        self,
        corpus: Corpus,
        recipe: Recipe,
        plan: TrainingPlan,
        *,
        data_rank: int = 0,
        data_ranks: int = 1,
        state: DataState | None = None,
        first_step: int = 0,
        workers: int = 0,
        exchange: Exchange | None = None,
    ) -> None:
        check_data_ranks(recipe.batch, recipe.parallel, data_ranks * recipe.parallel.tensor)
        self._corpus, self._recipe, self._plan = corpus, recipe, plan
        self._rank, self._ranks = data_rank, data_ranks
        self._cursor = DataCursor(corpus, recipe, plan, state)
        if self._cursor.step != first_step:
            raise ValueError(f"the data state is before step {self._cursor.step}, not {first_step}")
        last_phase = self._cursor.sampler.index == len(plan.phases) - 1
        if exchange is None and data_ranks > 1 and not last_phase:
            raise ValueError("more than one data rank needs an exchange at the end of phases")
        self._exchange: Exchange = exchange or (lambda own: [own])
        self._first_step = first_step
        self._masker = row_masker(corpus, recipe.data.masking, recipe.seed)
        self._worker_count = workers
        self._workers: WorkerPool | None = None
        self._started = False
        own = self._own_streams()
        self._latest = {number: self._cursor.streams[number] for number in own}
        self._states: OrderedDict[int, DataState] = OrderedDict()
        self._states[first_step - 1] = self._cursor.state_dict(first_step, self._latest)

    def __iter__(self) -> Iterator[Row]:
        """Iterate over the rows. Allowed only once, since the stream states advance."""
        if self._started:
            raise RuntimeError("a RowLoader can be iterated only once; create another from a state")
        self._started = True
        return self._rows()

    def _rows(self) -> Iterator[Row]:
        for phase in self._plan.phases[self._cursor.sampler.index :]:
            if self._cursor.sampler.index != phase.index:
                ended = self.state_after(phase.first_step - 1)
                everything = merge_states(list(self._exchange(ended)))["streams"]
                self._cursor.advance(
                    [everything[str(number)] for number in range(self._recipe.batch.quantum)]
                )
                self._latest = {n: self._cursor.streams[n] for n in self._own_streams()}
            yield from self._phase_rows(phase)
        self.close()

    def state_after(self, step: int) -> DataState:
        """Return this rank's state after `step`, one of the last 16 finished steps.

        `first_step - 1` counts as finished. Raises ValueError for other steps.
        """
        state = self._states.get(step)
        if state is None:
            raise ValueError(f"step {step} is not among the last finished steps")
        return state

    def close(self) -> None:
        """Stop the workers."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    def _own_streams(self) -> list[int]:
        return list(range(self._rank, self._recipe.batch.quantum, self._ranks))

    def _phase_rows(self, phase: PhasePlan) -> Iterator[Row]:
        read = self._open_source(phase)
        for step, rows in rows_of_rank(
            self._plan, phase, self._first_step, self._rank, self._ranks
        ):
            for index in rows:
                row = read(index)
                assert row.stream_state is not None
                self._latest[index % self._recipe.batch.quantum] = row.stream_state
                if index == rows[-1]:
                    self._states[step] = self._cursor.state_dict(step + 1, self._latest)
                    if len(self._states) > _MAX_STATES:
                        self._states.popitem(last=False)
                yield row
        self.close()

    def _open_source(self, phase: PhasePlan) -> Callable[[int], Row]:
        if not self._worker_count or self._first_step >= phase.end_step:
            return RowSource(self._cursor, self._recipe, self._masker, self._own_streams()).row
        self._workers = WorkerPool(
            self._cursor,
            self._recipe,
            self._plan,
            self._masker,
            first_step=self._first_step,
            rank=self._rank,
            ranks=self._ranks,
            count=self._worker_count,
        )
        return self._workers.row
