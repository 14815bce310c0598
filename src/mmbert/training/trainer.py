"""All that a run is made of, held together: opened once, moved from step to step by the loop."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch

from mmbert.checkpoint.reader import verify_checkpoint
from mmbert.checkpoint.store import CheckpointStore, RunState, step_of
from mmbert.data.loading.loader import DataState, RowLoader, merge_states
from mmbert.data.loading.rows import Row
from mmbert.data.sampling.component_table import ComponentTable
from mmbert.data.shards.corpus import Corpus
from mmbert.parallel.host_group import HostGroup
from mmbert.parallel.process_grid import ProcessGrid
from mmbert.parallel.sanity_checks import require_sane_model
from mmbert.recipe import Recipe, dump_recipe
from mmbert.schedule import StepPlan, TrainingPlan
from mmbert.training.engine.engine import Engine
from mmbert.training.fault_tolerance.loop_requests import LoopRequests
from mmbert.training.fault_tolerance.loss_monitor import LossMonitor, SkippedSteps
from mmbert.training.fault_tolerance.stop_request import StopRequest
from mmbert.training.fault_tolerance.watchdog import Activity, Watchdog
from mmbert.training.metrics.communication_timer import CollectiveTimer
from mmbert.training.metrics.interval_metrics import IntervalMetrics
from mmbert.training.metrics.loggers.container import LoggerContainer
from mmbert.training.metrics.loss_meter import LossMeter
from mmbert.training.metrics.profiler import Profiler
from mmbert.training.metrics.results import Results
from mmbert.training.metrics.step_timer import StepTimer
from mmbert.training.metrics.validation import Validator
from mmbert.training.train_step import StepRunner

# Processes that read ahead while a GPU works; on a CPU they would only take turns with training.
READERS_BESIDE_A_GPU = 2


@dataclass
class Trainer:
    """A run in progress. `step` is the next step to do; everything else follows from it."""

    recipe: Recipe
    plan: TrainingPlan
    corpus: Corpus
    table: ComponentTable
    run_folder: Path
    grid: ProcessGrid
    host_group: HostGroup
    engine: Engine
    store: CheckpointStore
    validator: Validator
    loggers: LoggerContainer
    results: Results
    loss_monitor: LossMonitor
    skipped: SkippedSteps
    stop: StopRequest
    watchdog: Watchdog
    runner: StepRunner
    meter: LossMeter
    interval: IntervalMetrics
    step_timer: StepTimer
    collective_timer: CollectiveTimer
    profiler: Profiler
    peak_flops: float | None
    step: int = 0
    _loader: RowLoader | None = None
    _rows: Iterator[Row] | None = None
    _data_state: DataState | None = None
    _saved_step: int | None = None
    _saved_at: float = field(default_factory=time.monotonic)

    def heartbeat(self, activity: Activity) -> None:
        """Tell the watchdog what comes next."""
        self.watchdog.heartbeat(self.step, activity)

    def next_rows(self, rows: int) -> list[Row]:
        """This rank's rows of the next step, `rows` being those of all data ranks."""
        if self._rows is None:
            self.open_loader()
        assert self._rows is not None
        return [next(self._rows) for _ in range(rows // self.grid.data.size)]

    def open_loader(self) -> None:
        """Begin to read at `step`, from the data state last loaded."""
        self.close_loader()
        self._loader = RowLoader(
            self.corpus,
            self.recipe,
            self.plan,
            data_rank=self.grid.data.rank,
            data_ranks=self.grid.data.size,
            state=self._data_state,
            first_step=self.step,
            workers=READERS_BESIDE_A_GPU if self.engine.device.type == "cuda" else 0,
            exchange=self._all_states,
        )
        self._rows = iter(self._loader)

    def close_loader(self) -> None:
        """Let go of the workers and the open shards."""
        if self._loader is not None:
            self._loader.close()
        self._loader = self._rows = None

    def pending_requests(self) -> LoopRequests:
        """What this rank wants now; costs a few system calls."""
        return LoopRequests(self.stop.reason(), self.time_save_is_due(), self.loggers.failure)

    def time_save_is_due(self) -> bool:
        """Whether the wall-clock interval has passed since the last save, by rank 0's clock."""
        minutes = self.recipe.checkpoint.every_minutes
        return (
            minutes is not None
            and self.host_group.is_rank_zero
            and time.monotonic() - self._saved_at >= 60 * minutes
        )

    def save_is_due(self, at: StepPlan) -> bool:
        """Whether the step just done has crossed a multiple of the token interval."""
        every = self.recipe.checkpoint.every_tokens
        return every is not None and at.crosses_multiple_of(every)

    def save(self, why: str, *, phase_end: bool = False) -> None:
        """Write a checkpoint of the state before `step` (all ranks), unless there is one."""
        if self._saved_step == self.step:
            return
        self.heartbeat(Activity.COMPARE_RANKS)
        self.check_sanity()
        self.heartbeat(Activity.SAVE_CHECKPOINT)
        with self.step_timer.host("checkpoint"):
            self.loggers.sync()
            path = self.store.save(self.engine, self._state(phase_end))
        self._saved_step, self._saved_at = self.step, time.monotonic()
        self.loggers.event(
            "checkpoint",
            self.step,
            f"checkpoint {path.name} ({why}); the step waited {self.store.blocked_seconds:.2f} s",
        )

    def sanity_is_due(self) -> bool:
        """Whether the recipe wants the ranks compared after the step just done."""
        every = self.recipe.guard.sanity_every
        return every is not None and self.step % every == 0

    def check_sanity(self, rows: Sequence[Row] = ()) -> None:
        """Copies of weights are equal on all ranks that hold them, and finite (all ranks).

        A fault in a collective or a device does not show in the loss; it must not reach a
        checkpoint either. With `rows`, those of the step just done are compared too.

        Raises:
            SanityError: on every rank.
        """
        partitions = None
        if self.engine.zero_stage == 3:  # the parameters themselves are put away
            partitions = {part.name: part.master for part in self.engine.fragments()}
        seen = {f"row {row.index}": _row_bits(row).to(self.engine.device) for row in rows}
        require_sane_model(self.engine.module, self.grid, partitions=partitions, rows=seen)

    def finish_saving(self) -> None:
        """Wait until what is being written is on disk, on all ranks."""
        self.heartbeat(Activity.FINISH_SAVING)
        self.store.wait()

    def load(self, path: Path) -> RunState:
        """Take over the checkpoint at `path` (all ranks)."""
        self.heartbeat(Activity.LOAD_CHECKPOINT)
        state = self.store.load(self.engine, path)
        self.restore(state)
        self._saved_step = self.step
        return state

    def verify_checkpoint(self, path: Path) -> None:
        """Read every byte of the checkpoint at `path`, shared among the ranks.

        Raises:
            UserError: on every rank, naming the damaged file.
        """
        self.heartbeat(Activity.VERIFY_CHECKPOINT)
        rank, world_size = self.host_group.rank, self.host_group.world_size
        for problem in self.host_group.gather(
            verify_checkpoint(path, rank=rank, world_size=world_size)
        ):
            if problem is not None:
                raise problem

    def restore(self, state: RunState) -> None:
        """Continue where `state` says; weights and optimiser are there already."""
        self.step = state.step
        self._data_state = cast(DataState, state.data) if state.data else None
        self.interval.resume(self.table.from_names(state.extra["component_tokens"]))
        self.loss_monitor.load_state_dict(state.extra["guard"])
        self.results.rewind(self.step)
        self.close_loader()

    def roll_back(self, spike: int) -> bool:
        """Go back before the spike at step `spike` and pass over the rows around it; False when no
        checkpoint lies before it.

        The step before is passed over too: a loss is measured with the weights that the step before
        left, so its rows may be the ones to blame.
        """
        limit = self.recipe.guard.rollback_limit
        self.finish_saving()
        first = max(0, spike - 1)
        target = self.store.latest_valid(up_to_step=first)
        if target is None or self.skipped.rollbacks >= limit:
            why = (
                "no checkpoint lies before it"
                if target is None
                else (f"guard.rollback_limit ({limit}) is reached")
            )
            self.loggers.event("no rollback", spike, f"no rollback after step {spike}: {why}")
            return False
        self.skipped.add(range(first, spike + 1))
        if self.host_group.is_rank_zero:
            # The newest first, and the note last: after a crash now the run meets the spike again.
            for path in reversed(self.store.list()):
                if step_of(path) > first:
                    self.store.remove(path)
        self.loggers.attempt(self.skipped.path, self.skipped.write)
        self.host_group.barrier()
        self.load(target)
        self.meter.collect(self.grid.data)
        self.step_timer.collect()
        self.interval.restart()
        self.loggers.event(
            "rollback",
            self.step,
            f"rolled back to {target.name}; steps {first} to {spike} will be passed over",
        )
        return True

    def write_results(self) -> None:
        """Put results.json in place (rank 0 does)."""
        path = self.run_folder / "results.json"
        self.loggers.attempt(path, lambda: self.results.write(self.run_folder))

    def close(self) -> None:
        """Finish writing and let go of everything but the processes' connection."""
        self.close_loader()
        trace = self.profiler.close()
        if trace is not None:
            self.loggers.message(f"profiler trace: {trace}")
        self.loggers.close()
        self.stop.close()
        self.collective_timer.close()

    def _state(self, phase_end: bool) -> RunState:
        """What a checkpoint of this moment says besides weights and optimiser."""
        done = self.plan.at(self.step - 1) if self.step else None
        phase = self.plan.phases[done.phase_index if done else 0]
        tokens = self.interval.totals(self.host_group)
        return RunState(
            step=self.step,
            tokens=0 if done is None else done.tokens_after,
            phase=phase.name,
            recipe=dump_recipe(self.recipe),
            data=dict(self._merged_data_state() or {}),
            tokenizer="tokenizer",
            language_tokens=self.table.by_language(tokens),
            extra={
                "component_tokens": self.table.to_names(tokens),
                "guard": self.loss_monitor.state_dict(),
            },
            phase_end=phase_end,
        )

    def _merged_data_state(self) -> DataState | None:
        """The streams' positions after the last finished step, from all data ranks."""
        if self._loader is None or self.step == 0:
            return self._data_state
        return merge_states(self._all_states(self._loader.state_after(self.step - 1)))

    def _all_states(self, own: DataState) -> list[DataState]:
        """The states of all data ranks for this rank's (every rank calls it)."""
        # The ranks of a tensor group are neighbours and read the same rows.
        return self.host_group.gather(own)[:: self.grid.tensor.size]


def _row_bits(row: Row) -> torch.Tensor:
    """int64 [numbers]: all that the model sees of the row, for comparison between ranks."""
    parts = (row.input_ids, row.cu_seqlens, row.masked_positions, row.labels, row.weights > 0)
    return torch.from_numpy(np.concatenate(parts).astype(np.int64))
