"""Training rows of this rank, step by step."""

from collections.abc import Iterator
from typing import cast

from mmbert.checkpoint.store import RunState
from mmbert.data.loading.data_state import check_data_state, gather_states, planned_state
from mmbert.data.loading.loader import DataState, RowLoader, merge_states
from mmbert.data.loading.rows import Row
from mmbert.training.run_config import RunConfig
from mmbert.training.trainer_parts.ranks import Ranks

# Number of read-ahead processes per GPU; none on a CPU, where they would compete with training.
GPU_READER_PROCESSES = 2


class DataFeed:
    """Reads this rank's rows. The first read after a start or rollback opens the loader."""

    def __init__(self, run: RunConfig, ranks: Ranks, *, on_gpu: bool) -> None:
        self._run, self._ranks = run, ranks
        self._workers = GPU_READER_PROCESSES if on_gpu else 0
        self._loader: RowLoader | None = None
        self._rows: Iterator[Row] | None = None
        self._state: DataState | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warning that the loaded checkpoint cannot tell changed shards of equal sizes."""
        if self._state is None or "checksums" in self._state:
            return ()
        return (
            "the checkpoint was saved by an earlier version, without checksums of the shards: they "
            "were compared with those it was trained on by their sizes only",
        )

    def next_rows(self, step: int, rows: int) -> list[Row]:
        """Return this rank's share of the `rows` of step `step`; steps must be consecutive."""
        if self._rows is None:
            self._open(step)
        assert self._rows is not None
        return [next(self._rows) for _ in range(rows // self._ranks.grid.data.size)]

    def state_dict(self, step: int) -> DataState | None:
        """Return the positions of all data streams before `step`; collective."""
        if self._loader is None or step == 0:
            return self._state
        return merge_states(self._gather(self._loader.state_after(step - 1)))

    def check(self, state: RunState) -> None:
        """Compare a checkpoint's data state with the shards and the recipe; collective.

        Raises:
            ResumeError: they would continue with other text; raised on every rank.
        """
        run, group = self._run, self._ranks.host_group

        def compare() -> None:
            check_data_state(run.corpus, run.recipe, run.plan, state.data)

        group.raise_on_all_ranks(compare if group.is_rank_zero else None)

    def load_state_dict(self, state: RunState) -> None:
        """Restore the positions of the data streams from a checkpoint."""
        self.close()
        self._state = cast(DataState, state.data) if state.data else None

    def start_at(self, step: int) -> None:
        """Start at `step` of the plan without a checkpoint's data state (see `planned_state`)."""
        self.close()
        self._state = planned_state(self._run.corpus, self._run.recipe, self._run.plan, step)

    def close(self) -> None:
        """Stop the reader processes and close the shards."""
        if self._loader is not None:
            self._loader.close()
        self._loader = self._rows = None

    def _open(self, step: int) -> None:
        self._loader = RowLoader(
            self._run.corpus,
            self._run.recipe,
            self._run.plan,
            data_rank=self._ranks.grid.data.rank,
            data_ranks=self._ranks.grid.data.size,
            state=self._state,
            first_step=step,
            workers=self._workers,
            exchange=self._gather,
        )
        self._rows = iter(self._loader)

    def _gather(self, state: DataState) -> list[DataState]:
        """Gather the states of all data ranks; collective."""
        # The ranks of a tensor group are neighbors and read the same rows.
        return gather_states(state, self._ranks.host_group.gather)[:: self._ranks.grid.tensor.size]
