"""Asynchronous checkpoint writer: one file per rank, commit by a rename.

Runs in a thread of each rank. A rank reports success to rank 0 by a manifest in the hidden folder,
and failure by a marker file, upon which rank 0 aborts the save. Only rank 0 renames the folder.
"""

import contextlib
import json
import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbert.checkpoint.format import (
    INDEX_NAME,
    RECIPE_NAME,
    FileEntry,
    Index,
    RunState,
    SavedGrid,
    SavedParameter,
    Shard,
    Slice,
    coverage_errors,
    vectors_header,
    write_file,
)
from mmbert.checkpoint.staging import FragmentSpec, HostStaging
from mmbert.errors import OutputError, UserError
from mmbert.files import NoSpaceError, lacks_space, sync_folder
from mmbert.ownership import OwnershipLostError, Unowned

logger = logging.getLogger(__name__)


class PeerFailedError(Exception):
    """Failure of another rank, which reports the reason itself."""


@dataclass(frozen=True)
class SaveJob:
    """Parameters of one save on one rank."""

    path: Path
    partial: Path
    rank: int
    world_size: int
    writer: str
    number: int
    permanent: bool
    state: RunState
    optimizer_steps: int
    tensor: int
    data: int
    zero_stage: int
    commit_timeout: float


class Writer:
    """Thread that writes one save; `result` waits for it."""

    def __init__(
        self,
        job: SaveJob,
        staging: HostStaging,
        fragment_specs: tuple[FragmentSpec, ...],
        after_commit: Callable[[], Any],
        owner: Unowned | None = None,
    ) -> None:
        self.job, self._owner = job, owner or Unowned()
        self._staging, self._fragment_specs, self._after_commit = (
            staging,
            fragment_specs,
            after_commit,
        )
        self._failure: str | UserError | None = None
        # A daemon, so that a crashing run does not wait for a checkpoint that cannot complete.
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def finished_within(self, seconds: float) -> bool:
        """Wait up to `seconds`; return whether the thread has finished."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def result(self) -> str | UserError | None:
        """Wait for the thread; return None on success, else the error of this rank.

        The error is "" if another rank failed.
        """
        self._thread.join()
        return self._failure

    def _run(self) -> None:
        job = self.job
        try:
            self._write()
            if job.rank == 0:
                manifests = _collect_manifests(job)
                commit(job, manifests, self._owner)
                self._after_commit()
        except PeerFailedError:
            self._failure = self._lost() or ""
        except Exception as error:  # reported by `result`, on the main thread of every rank
            text = f"rank {job.rank}: {error}"
            full = save_error(job.path, [text], NoSpaceError) if lacks_space(error) else None
            self._failure = self._lost() or full or text
            logger.error("checkpoint %s: %s", job.path.name, self._failure)
            _mark_failure(job)

    def _lost(self) -> OwnershipLostError | None:
        """Return the cause of a failure if the folder has another owner, who may clear it up."""
        try:
            self._owner.check()
        except OwnershipLostError as lost:
            return lost
        except OSError:  # the disk is the cause
            pass
        return None

    def _write(self) -> None:
        """Write this rank's file, then its manifest, atomically since rank 0 polls for it."""
        job, fragment_specs = self.job, self._fragment_specs
        assert self._staging.buffer is not None
        name = f"rank-{job.rank:05d}.safetensors"
        lengths = {f"{p.name}/{state}": p.length for p in fragment_specs for state in p.states}
        data = self._staging.buffer.numpy().data
        entry = write_file(job.partial / name, [vectors_header(lengths), data])
        rank_manifest = {
            "file": name,
            "entry": entry.model_dump(),
            "pieces": [p.__dict__ for p in fragment_specs if not p.is_of_rows],
            "row_states": [p.__dict__ for p in fragment_specs if p.is_of_rows],
        }
        draft = job.partial / f".note-{job.rank:05d}"
        write_file(draft, [json.dumps(rank_manifest).encode()])
        draft.rename(_manifest_path(job, job.rank))


def save_error(
    path: Path, failures: Sequence[str | UserError], kind: type[OutputError] = OutputError
) -> UserError:
    """Return the error of a save, of this `kind` at least, given those of the ranks that failed."""
    for failure in failures:
        if isinstance(failure, UserError):
            return failure
    reason = next((failure for failure in failures if failure), "see the log")
    return kind(
        f"cannot write checkpoint {path}: {reason}",
        remedy="free space (or raise the quota) or repair the disk, then run the same command "
        "again: it resumes from the latest valid checkpoint",
    )


@contextlib.contextmanager
def explained_errors(path: Path) -> Iterator[None]:
    """Convert an OSError to that of a save of `path`."""
    try:
        yield
    except OSError as error:
        kind = NoSpaceError if lacks_space(error) else OutputError
        raise save_error(path, [f"rank 0: {error}"], kind) from error


def _manifest_path(job: SaveJob, rank: int) -> Path:
    return job.partial / f"note-{rank:05d}.json"


def _failure_marker(job: SaveJob, rank: int) -> Path:
    return job.partial / f"failed-{rank:05d}"


def _mark_failure(job: SaveJob) -> None:
    """Report a failure to rank 0 by an empty file, which needs no disk space."""
    try:
        _failure_marker(job, job.rank).touch()
    except OSError as error:
        logger.error(
            "checkpoint %s: rank %d cannot report its failure: %s", job.path.name, job.rank, error
        )


def _collect_manifests(job: SaveJob) -> list[dict[str, Any]]:
    """Wait for the manifests of all ranks and return them in rank order.

    Raises:
        PeerFailedError: a rank failed.
        TimeoutError: a rank has no manifest after `commit_timeout` seconds.
    """
    manifests: dict[int, dict[str, Any]] = {}
    deadline, pause = time.monotonic() + job.commit_timeout, 0.005
    while len(manifests) < job.world_size:
        present = set(os.listdir(job.partial))  # one request, not two for each rank that is missing
        for rank in set(range(job.world_size)) - set(manifests):
            if _manifest_path(job, rank).name in present:
                manifests[rank] = json.loads(_manifest_path(job, rank).read_bytes())
            elif _failure_marker(job, rank).name in present:
                raise PeerFailedError(rank)
        if len(manifests) < job.world_size:
            missing = sorted(set(range(job.world_size)) - set(manifests))
            if time.monotonic() > deadline:
                raise TimeoutError(f"ranks {missing} did not finish within {job.commit_timeout} s")
            time.sleep(pause)
            pause = min(2 * pause, 0.5)
    return [manifests[rank] for rank in range(job.world_size)]


def commit(job: SaveJob, manifests: list[dict[str, Any]], owner: Unowned) -> None:
    """Write recipe and index, then make the checkpoint visible by a rename.

    Raises:
        OwnershipLostError: the run folder has another owner; nothing has been renamed.
    """
    files = {
        rank_manifest["file"]: FileEntry.model_validate(rank_manifest["entry"])
        for rank_manifest in manifests
    }
    files[RECIPE_NAME] = write_file(job.partial / RECIPE_NAME, [job.state.recipe.encode()])
    parameters, row_states = _merge(manifests, "pieces"), _merge(manifests, "row_states")
    gaps = list(coverage_errors(parameters | row_states))
    if gaps:
        raise RuntimeError(f"the slices of the ranks do not cover every tensor: {gaps[0]}")
    index = Index(
        writer=job.writer,
        number=job.number,
        permanent=job.permanent,
        state=job.state,
        optimizer_steps=job.optimizer_steps,
        grid=SavedGrid(tensor=job.tensor, data=job.data, zero_stage=job.zero_stage),
        files=files,
        parameters=parameters,
        row_states=row_states,
    )
    write_file(job.partial / INDEX_NAME, [index.dump()])
    for rank in range(job.world_size):
        _manifest_path(job, rank).unlink()
    sync_folder(job.partial)
    replaced = job.path.with_name(f".replaced-{job.path.name}-{uuid.uuid4().hex[:8]}")
    with owner.writing():
        # The step may exist: the run resumed from an older checkpoint, or this one is damaged.
        if job.path.exists():
            job.path.rename(replaced)
        job.partial.rename(job.path)
        sync_folder(job.path.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _merge(manifests: list[dict[str, Any]], kind: str) -> dict[str, SavedParameter]:
    """Merge a list of the manifests of all ranks by parameter and shard."""
    shapes: dict[str, tuple[tuple[int, ...], int | None]] = {}
    ranges: dict[str, dict[int, Any]] = {}
    slices: dict[tuple[str, int], list[Slice]] = {}
    for rank_manifest in manifests:
        for fragment in rank_manifest[kind]:
            name, rank = fragment["name"], fragment["tensor_rank"]
            shapes[name] = (tuple(fragment["shape"]), fragment["split_dimension"])
            ranges.setdefault(name, {})[rank] = fragment["ranges"]
            place = Slice(
                file=rank_manifest["file"], start=fragment["start"], length=fragment["length"]
            )
            slices.setdefault((name, rank), []).append(place)
    return {
        name: SavedParameter(
            shape=shape,
            split_dimension=split_dimension,
            shards=tuple(
                Shard(
                    ranges=ranges[name][rank],
                    slices=tuple(sorted(slices[name, rank], key=lambda slice_: slice_.start)),
                )
                for rank in sorted(ranges[name])
            ),
        )
        for name, (shape, split_dimension) in shapes.items()
    }
