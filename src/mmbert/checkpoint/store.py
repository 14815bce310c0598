"""A run's checkpoints: written beside the training, made current by a rename, read at any grid.

Saving is three things. The copy: every rank copies its masters and states to host memory; the step
waits for this alone. The writing: a thread writes, flushes and reads back one file per rank in a
hidden folder, and leaves a note of what it wrote. The commit: rank 0's thread collects the notes,
writes the index and renames the folder. The ranks thus agree through the file system, so that
nothing of it meets the training's collectives; whether a save succeeded is settled at the next one
(or at `wait`), on all ranks alike.
"""

import logging
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import torch

from mmbert import __version__
from mmbert.checkpoint.format import Index, RunState
from mmbert.checkpoint.reader import CheckpointReader, read_parameters, verify_checkpoint
from mmbert.checkpoint.writer import HostStaging, SaveJob, Writer
from mmbert.errors import UserError
from mmbert.files import make_folder, sync_folder
from mmbert.parallel.host_group import HostGroup
from mmbert.parallel.parameter_spec import ParameterSpec
from mmbert.parallel.process_grid import ProcessGrid
from mmbert.parallel.zero_fragment import ParameterFragment

logger = logging.getLogger(__name__)

FOLDER = re.compile(r"step-(\d{8,})")
Paths = list[Path]  # the store has a method `list`, which hides the type within its class
PATIENCE_SECONDS = 10.0
HIDDEN = (".partial-", ".deleted-", ".replaced-")


class SavableEngine(Protocol):
    """What saving asks of an engine; no more, so that reading checkpoints loads no engine."""

    @property
    def grid(self) -> ProcessGrid:
        """The grid that the model is spread over."""

    @property
    def device(self) -> torch.device:
        """Where the fragments' tensors are."""

    @property
    def zero_stage(self) -> int:
        """ZeRO's stage, for people who read the index."""

    @property
    def steps_taken(self) -> int:
        """Optimizer steps so far, those of earlier runs included."""

    def fragments(self) -> Iterable[ParameterFragment]:
        """What this rank holds of each parameter, as views that may be written to."""


class LoadableEngine(SavableEngine, Protocol):
    """What loading asks of an engine beside that."""

    @property
    def specs(self) -> Sequence[ParameterSpec]:
        """Every parameter of the model, held by this rank or not."""

    def set_steps_taken(self, steps: int) -> None:
        """Continue counting from `steps`."""

    def sync_model_weights(self) -> None:
        """Bring the model's weights into line with the fragments' masters; collective."""


class CheckpointStore:
    """The folder of a run's checkpoints; every rank has one. Methods say if all must call them."""

    def __init__(
        self,
        root: Path,
        *,
        keep_last: int = 3,
        keep_every: int | None = None,
        asynchronous: bool = True,
        commit_timeout: float = 3600.0,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        """`commit_timeout`: seconds rank 0 waits for all ranks' files before it gives a save up;
        `alive` is called now and then while a slow disk is waited for."""
        self.root = root
        self._keep_last, self._keep_every = keep_last, keep_every
        self._asynchronous, self._commit_timeout = asynchronous, commit_timeout
        self._alive = alive
        self._host_group = HostGroup.on_default_group()
        self._staging = HostStaging()
        self._writer: Writer | None = None
        self.blocked_seconds = 0.0
        """What the last `save` cost the step: waiting for the one before, and copying."""

    def prepare(self, engine: SavableEngine) -> None:
        """Take the host memory for the copies, so that the first save does not have to."""
        self._staging.prepare(engine.fragments(), engine.device)

    def save(self, engine: SavableEngine, state: RunState) -> Path:
        """Write a checkpoint after `state.step` steps; collective. The folder it will have.

        Returns when the states are copied; waits for the disk only if the store is not asynchronous
        or the save before has not ended. UserError if that one (or this one) failed.
        """
        begin = time.monotonic()
        self.wait()
        path = self.root / f"step-{state.step:08d}"
        begun = self._begin(path) if self._host_group.is_rank_zero else None
        number, partial = self._host_group.broadcast(begun)
        job = SaveJob(
            path=path,
            partial=self.root / partial,
            rank=self._host_group.rank,
            world_size=self._host_group.world_size,
            writer=f"mmbert {__version__}",
            number=number,
            permanent=state.phase_end
            or (self._keep_every is not None and (number + 1) % self._keep_every == 0),
            state=state,
            optimizer_steps=engine.steps_taken,
            tensor=engine.grid.tensor.size,
            data=engine.grid.data.size,
            zero_stage=engine.zero_stage,
            commit_timeout=self._commit_timeout,
        )
        fragment_specs = self._staging.stage(engine.fragments(), engine.device)
        self._writer = Writer(
            job, self._staging, fragment_specs, after_commit=lambda: self.prune(state.step)
        )
        self._writer.start()
        if not self._asynchronous:
            self.wait()
        self.blocked_seconds = time.monotonic() - begin
        return path

    def wait(self) -> None:
        """Wait until the save under way has ended on all ranks; collective.

        UserError, on every rank, if it failed on any. The checkpoints before it are untouched.
        """
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        # All ranks come back to one another, so that none seems to hang while one still writes.
        while not all(self._host_group.gather(writer.finished_within(PATIENCE_SECONDS))):
            self._alive()
        results = self._host_group.gather(writer.result())
        failures = [failure for failure in results if failure is not None]
        if failures:
            if self._host_group.is_rank_zero:
                shutil.rmtree(writer.job.partial, ignore_errors=True)
            reason = next((failure for failure in failures if failure), "see the log")
            raise UserError(
                f"the checkpoint {writer.job.path} could not be written: {reason}",
                remedy="free space (or raise the quota) or mend the disk, then start the same "
                "command again: it continues from the newest sound checkpoint",
            )

    @property
    def is_writing(self) -> bool:
        """Whether this rank is still writing."""
        return self._writer is not None and self._writer.is_alive

    def list(self) -> Paths:
        """Committed checkpoints, oldest first; whether they are sound is not looked at."""
        if not self.root.is_dir():
            return []
        folders = [path for path in self.root.iterdir() if FOLDER.fullmatch(path.name)]
        return sorted(folders, key=step_of)

    def latest_valid(self, *, up_to_step: int | None = None) -> Path | None:
        """The newest checkpoint whose every byte is as written; None if there are none; collective.

        With `up_to_step`, those of later steps are left out of account.

        The ranks share the reading. A damaged checkpoint is logged by name and passed over.
        UserError if there are checkpoints but none is sound: starting anew must be a decision.
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
                logger.warning("passing over a damaged checkpoint: %s", problem.message)
        if problems:
            raise UserError(
                f"none of the {len(problems)} checkpoints in {self.root} is sound; the newest: "
                f"{problems[0].message}",
                remedy=f"restore one from a copy, or move {self.root} away to begin anew",
            )
        return None

    def load(self, engine: LoadableEngine, path: Path) -> RunState:
        """Set `engine` to the checkpoint at `path`, of whatever grid and ZeRO stage; collective.

        Each rank reads the slices that it needs. UserError if the model is another one.
        """
        with CheckpointReader(path) as reader:
            _check_same_model(engine, reader.index, path)
            for fragment in engine.fragments():
                ranges = fragment.spec.ranges(fragment.tensor_rank, fragment.tensor_size)
                for state, tensor in fragment.states.items():
                    values = reader.shard_range(
                        fragment.name,
                        state,
                        ranges=ranges,
                        start=fragment.start,
                        length=fragment.length,
                    )
                    tensor.copy_(values)
            engine.set_steps_taken(reader.index.optimizer_steps)
            engine.sync_model_weights()
            return reader.index.state

    def prune(self, step: int) -> Paths:
        """Delete all but the last `keep_last` up to `step` and the permanent ones; rank 0 alone.

        Those after `step` were damaged when the run went back before them, and do not count: the
        one just written would be the first to go. Returns what went.
        """
        deleted = []
        for path in [path for path in self.list() if step_of(path) <= step][: -self._keep_last]:
            try:
                if Index.read(path).permanent:
                    continue
            except UserError:
                pass  # a damaged one is of no use to anyone
            self.remove(path)
            deleted.append(path)
        return deleted

    def remove(self, path: Path) -> None:
        """Delete a checkpoint; one rank alone."""
        # Renamed first, for good: a half-deleted checkpoint is never seen as one.
        trash = self.root / f".deleted-{path.name}-{uuid.uuid4().hex[:8]}"
        path.rename(trash)
        sync_folder(self.root)
        shutil.rmtree(trash, ignore_errors=True)

    def _begin(self, path: Path) -> tuple[int, str]:
        """The save's number and the name of its hidden folder, made; remains of others go."""
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
        partial = f".partial-{path.name}-{uuid.uuid4().hex[:8]}"
        (self.root / partial).mkdir()
        return number, partial


def _check_same_model(engine: LoadableEngine, index: Index, path: Path) -> None:
    """UserError unless the checkpoint holds exactly the parameters of the engine's model."""
    wanted = {spec.name: spec.full_shape for spec in engine.specs}
    for name in [*wanted, *index.parameters]:
        shape = wanted.get(name)
        saved = index.parameters[name].shape if name in index.parameters else None
        if shape == saved:
            continue
        what = f"has {name} of shape {saved}, the model {shape}"
        if saved is None:
            what = f"has no parameter {name}, which the model has"
        elif shape is None:
            what = f"has a parameter {name}, which the model has not"
        raise UserError(
            f"the checkpoint {path} {what}",
            remedy="continue with the recipe that wrote it (recipe.yaml in its folder), "
            "or begin in another output folder",
        )


def step_of(checkpoint: Path) -> int:
    """The step in the name of a checkpoint's folder."""
    return int(checkpoint.name.removeprefix("step-"))


__all__ = ["CheckpointStore", "RunState", "read_parameters"]
