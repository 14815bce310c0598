"""Checkpoints of a run: saved asynchronously, committed by a rename, loaded on any grid.

A save has three stages. Staging: every rank copies its master weights and optimizer states to host
memory; the training step waits only for this. Writing: a thread writes, flushes and reads back one
file per rank in a hidden folder, and adds a manifest of its contents. Commit: the thread of rank 0
collects the manifests, writes the index and renames the folder. Ranks synchronize through the file
system, so that saving does not interfere with the collectives of training; the next save (or
`wait`) reports a failure on all ranks.
"""

import logging
import shutil
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

from mmbert import __version__
from mmbert.checkpoint.engine_protocols import LoadableEngine, SavableEngine
from mmbert.checkpoint.format import Index, RunState
from mmbert.checkpoint.listing import list_checkpoints, step_of
from mmbert.checkpoint.reader import CheckpointReader, read_parameters, verify_checkpoint
from mmbert.checkpoint.staging import HostStaging
from mmbert.checkpoint.writer import SaveJob, Writer, explained_errors, save_error
from mmbert.errors import CheckpointError, ResumeError, UserError
from mmbert.files import make_folder, sync_folder
from mmbert.ownership import Unowned
from mmbert.parallel.host_group import HostGroup
from mmbert.parallel.zero_fragment import ParameterFragment, RowState

logger = logging.getLogger(__name__)

Paths = list[Path]  # the store's method `list` shadows the type within the class
PATIENCE_SECONDS = 10.0
HIDDEN = (".partial-", ".deleted-", ".replaced-")


class CheckpointStore:
    """Checkpoint folder of a run; one instance per rank. Collective methods are marked."""

    def __init__(
        self,
        root: Path,
        *,
        keep_last: int = 3,
        keep_every: int | None = None,
        asynchronous: bool = True,
        commit_timeout: float = 3600.0,
        alive: Callable[[], None] = lambda: None,
        owner: Unowned | None = None,
    ) -> None:
        """Create the store.

        Args:
            keep_last: number of latest checkpoints to keep.
            keep_every: keep every Nth checkpoint permanently.
            asynchronous: return from `save` after staging.
            commit_timeout: seconds that rank 0 waits for all ranks' files before a save fails.
            alive: callback invoked periodically while waiting for a slow disk.
            owner: ownership of the run folder, which rank 0 checks before it changes anything.
        """
        self.root = root
        self._keep_last, self._keep_every = keep_last, keep_every
        self._asynchronous, self._commit_timeout = asynchronous, commit_timeout
        self._alive, self._owner = alive, owner or Unowned()
        self._host_group = HostGroup.on_default_group()
        self._staging = HostStaging()
        self._writer: Writer | None = None
        self.blocked_seconds = 0.0
        """Time for which the last `save` blocked training: the previous save, and staging."""

    def prepare(self, engine: SavableEngine) -> None:
        """Allocate the host memory for staging ahead of the first save."""
        self._staging.prepare(engine.fragments(), engine.device, engine.row_states())

    def save(self, engine: SavableEngine, state: RunState, *, permanent: bool = False) -> Path:
        """Save a checkpoint after `state.step` steps and return its folder. Collective.

        Returns once the states are staged; waits for the disk only if the store is synchronous or
        the previous save has not finished.

        Args:
            permanent: never delete it, as the end of a phase and every Nth checkpoint.

        Raises:
            UserError: the previous save (or this one) failed.
        """
        begin = time.monotonic()
        self.wait()
        path = self.root / f"step-{state.step:08d}"
        number, hidden = self._host_group.from_rank_zero(partial(self._begin, path))
        job = SaveJob(
            path=path,
            partial=self.root / hidden,
            rank=self._host_group.rank,
            world_size=self._host_group.world_size,
            writer=f"mmbert {__version__}",
            number=number,
            permanent=permanent
            or state.phase_end
            or (self._keep_every is not None and (number + 1) % self._keep_every == 0),
            state=state,
            optimizer_steps=engine.steps_taken,
            tensor=engine.grid.tensor.size,
            data=engine.grid.data.size,
            zero_stage=engine.zero_stage,
            commit_timeout=self._commit_timeout,
        )
        fragment_specs = self._staging.stage(engine.fragments(), engine.device, engine.row_states())
        self._writer = Writer(
            job, self._staging, fragment_specs, lambda: self.prune(state.step), self._owner
        )
        self._writer.start()
        if not self._asynchronous:
            self.wait()
        self.blocked_seconds = time.monotonic() - begin
        return path

    def wait(self) -> None:
        """Wait until the current save has finished on all ranks. Collective.

        Raises:
            UserError: on every rank if the save failed on any; earlier checkpoints are unaffected.
        """
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        # Poll in short intervals, so that waiting ranks do not appear to hang.
        while not all(self._host_group.gather(writer.finished_within(PATIENCE_SECONDS))):
            self._alive()
        results = self._host_group.gather(writer.result())
        failures = [failure for failure in results if failure is not None]
        if failures:
            if self._host_group.is_rank_zero:
                shutil.rmtree(writer.job.partial, ignore_errors=True)
            raise save_error(writer.job.path, failures)

    def list(self) -> Paths:
        """Return committed checkpoints, oldest first, without verifying them."""
        return list_checkpoints(self.root)

    def latest_valid(self, *, up_to_step: int | None = None) -> Path | None:
        """Return the latest checkpoint with valid checksums; None if there are none. Collective.

        The ranks verify different files. Damaged checkpoints are logged and skipped.

        Args:
            up_to_step: last step to consider; None: no limit.

        Raises:
            UserError: all checkpoints are damaged; only the user may decide to start over.
        """
        candidates = self._host_group.broadcast(
            self.list() if self._host_group.is_rank_zero else None
        )
        if up_to_step is not None:
            candidates = [path for path in candidates if step_of(path) <= up_to_step]
        problems = []
        for path in reversed(candidates):
            rank, world_size = self._host_group.rank, self._host_group.world_size
            found = self._host_group.gather(
                verify_checkpoint(path, rank=rank, world_size=world_size)
            )
            problem = next((problem for problem in found if problem is not None), None)
            if problem is None:
                return Path(path)
            problems.append(problem)
            if self._host_group.is_rank_zero:
                logger.warning("skipping a damaged checkpoint: %s", problem.message)
        if problems:
            raise CheckpointError(
                f"none of the {len(problems)} checkpoints in {self.root} is valid; the latest: "
                f"{problems[0].message}",
                remedy=f"restore one from a copy, or move {self.root} away to start over",
            )
        return None

    def load(self, engine: LoadableEngine, path: Path) -> RunState:
        """Load the checkpoint at `path`, of any grid and ZeRO stage, into `engine`. Collective.

        Each rank reads only the slices that it needs.

        Raises:
            UserError: the checkpoint is from a different model.
        """
        with CheckpointReader(path) as reader:
            _check_same_model(engine, reader.index, path)
            for fragment in engine.fragments():
                _load_fragment(reader, fragment)
            for rows in engine.row_states():
                _load_rows(reader, rows)
            engine.set_steps_taken(reader.index.optimizer_steps)
            engine.sync_model_weights()
            return reader.index.state

    def prune(self, step: int) -> Paths:
        """Delete old checkpoints and return their paths. Call on rank 0 only.

        Keeps permanent checkpoints and the last `keep_last` up to `step`. Checkpoints after `step`
        do not count: they were found damaged on resuming, and if they counted, the one just
        written would be deleted first.
        """
        deleted = []
        for path in [path for path in self.list() if step_of(path) <= step][: -self._keep_last]:
            try:
                if Index.read(path).permanent:
                    continue
            except UserError:
                pass  # damaged checkpoints are useless
            self.remove(path)
            deleted.append(path)
        return deleted

    def remove(self, path: Path) -> None:
        """Delete a checkpoint. Call on one rank only.

        Raises:
            OwnershipLostError: the run folder has another owner; the checkpoint stays.
        """
        # Rename first, so that a half-deleted checkpoint is never mistaken for a checkpoint.
        trash = self.root / f".deleted-{path.name}-{uuid.uuid4().hex[:8]}"
        with self._owner.writing():
            path.rename(trash)
            sync_folder(self.root)
        shutil.rmtree(trash, ignore_errors=True)

    def _begin(self, path: Path) -> tuple[int, str]:
        """Create the hidden folder of a save; return the save's number and the folder's name.

        Removes leftovers of killed saves; an owner that the folder was taken from cannot publish
        its own after that.
        """
        self._owner.check()
        make_folder(self.root)
        for leftover in self.root.iterdir():
            if leftover.name.startswith(HIDDEN):
                shutil.rmtree(leftover, ignore_errors=True)
        number = 0
        for earlier in reversed(self.list()):
            try:
                number = Index.read(earlier).number + 1
                break
            except UserError:
                continue
        hidden = f".partial-{path.name}-{uuid.uuid4().hex[:8]}"
        with explained_errors(path):
            (self.root / hidden).mkdir()
        return number, hidden


def _load_fragment(reader: CheckpointReader, fragment: ParameterFragment) -> None:
    """Load a fragment's states. What another optimizer did not keep begins at 0.

    Optimizers change at the end of a phase only, which `resume_check` makes sure of by the recipes.
    """
    ranges = fragment.spec.ranges(fragment.tensor_rank, fragment.tensor_size)
    for state, tensor in fragment.states.items():
        if reader.index.state.phase_end and not reader.keeps(fragment.name, state):
            tensor.zero_()
            continue
        values = reader.shard_range(
            fragment.name, state, ranges=ranges, start=fragment.start, length=fragment.length
        )
        tensor.copy_(values)


def _load_rows(reader: CheckpointReader, rows: RowState) -> None:
    """Load the states of a matrix's rows, as `_load_fragment` does."""
    if reader.index.state.phase_end and not reader.index.row_states:
        rows.values.zero_()
    else:
        rows.values.copy_(
            reader.rows(rows.spec.name, rows.state, start=rows.start, length=len(rows.values))
        )


def _check_same_model(engine: LoadableEngine, index: Index, path: Path) -> None:
    """Raise UserError unless the checkpoint has exactly the parameters of the engine's model."""
    wanted = {spec.name: spec.full_shape for spec in engine.specs}
    for name in [*wanted, *index.parameters]:
        shape = wanted.get(name)
        saved = index.parameters[name].shape if name in index.parameters else None
        if shape == saved:
            continue
        what = f"has {name} of shape {saved}, the model of shape {shape}"
        if saved is None:
            what = f"lacks parameter {name} of the model"
        elif shape is None:
            what = f"has parameter {name}, which is not in the model"
        raise ResumeError(
            f"the checkpoint {path} {what}",
            remedy="resume with the recipe that wrote it (recipe.yaml in its folder), "
            "or start in another output folder",
        )


__all__ = ["CheckpointStore", "RunState", "list_checkpoints", "read_parameters", "step_of"]
