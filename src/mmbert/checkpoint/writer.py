"""Writing a checkpoint beside the training: the copy in host memory, one file per rank, the commit.

Runs in a thread of each rank. Ranks tell rank 0 that their file is safe by a note in the hidden
folder; only rank 0 renames it. A rank that fails leaves a note of that, and rank 0 gives up.
"""

import json
import logging
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
from mmbert.files import sync_folder
from mmbert.parallel.zero_fragment import ParameterFragment

logger = logging.getLogger(__name__)


class PeerFailedError(Exception):
    """Another rank could not write its part; it tells the reason itself."""


@dataclass(frozen=True)
class SaveJob:
    """One save, as one rank sees it."""

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


@dataclass(frozen=True)
class FragmentSpec:
    """A fragment that this rank writes: which range of which share, without the numbers."""

    name: str
    shape: tuple[int, ...]
    split_dimension: int | None
    tensor_rank: int
    ranges: tuple[tuple[int, int], ...]
    start: int
    length: int
    states: tuple[str, ...]


class HostStaging:
    """Host memory for one rank's copy, kept from save to save (on a GPU: pinned)."""

    def __init__(self) -> None:
        self.buffer: Tensor | None = None

    def prepare(self, fragments: Iterable[ParameterFragment], device: torch.device) -> None:
        """Take the memory now: the system's handing it out costs more than the copy."""
        self._reserve(_written_here(fragments), device)
        assert self.buffer is not None
        self.buffer.zero_()

    def _reserve(self, fragments: list[ParameterFragment], device: torch.device) -> None:
        total = sum(f.length * len(f.states) for f in fragments)
        if self.buffer is None or self.buffer.numel() != total:
            self.buffer = torch.empty(total, dtype=torch.float32, pin_memory=device.type == "cuda")

    def stage(
        self, fragments: Iterable[ParameterFragment], device: torch.device
    ) -> tuple[FragmentSpec, ...]:
        """Copy what this rank has to write, in the file's order. On return the copy is whole.

        A parameter that every tensor rank holds is written by the first of them.
        """
        chosen = _written_here(fragments)
        self._reserve(chosen, device)
        assert self.buffer is not None
        offset = 0
        for fragment in chosen:
            for tensor in fragment.states.values():
                target = self.buffer[offset : offset + fragment.length]
                target.copy_(tensor, non_blocking=True)
                offset += fragment.length
        if device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()
        return tuple(
            FragmentSpec(
                name=f.name,
                shape=tuple(f.spec.full_shape),
                split_dimension=f.spec.split_dimension,
                tensor_rank=f.tensor_rank,
                ranges=tuple(f.spec.ranges(f.tensor_rank, f.tensor_size)),
                start=f.start,
                length=f.length,
                states=tuple(f.states),
            )
            for f in chosen
        )


def _written_here(fragments: Iterable[ParameterFragment]) -> list[ParameterFragment]:
    return [f for f in fragments if f.spec.is_split or f.tensor_rank == 0]


class Writer:
    """The thread that writes one save; `result` waits for it."""

    def __init__(
        self,
        job: SaveJob,
        staging: HostStaging,
        fragment_specs: tuple[FragmentSpec, ...],
        after_commit: Callable[[], Any],
    ) -> None:
        self.job = job
        self._staging, self._fragment_specs, self._after_commit = (
            staging,
            fragment_specs,
            after_commit,
        )
        self._failure: str | None = None
        # A daemon: a run that dies must not wait for a checkpoint that will never be whole.
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether it is still writing."""
        return self._thread.is_alive()

    def finished_within(self, seconds: float) -> bool:
        """Wait for the end, `seconds` at most; whether it has come."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def result(self) -> str | None:
        """Wait for the end; None if all went well, else what went wrong on this rank ("" if it is
        another rank that failed)."""
        self._thread.join()
        return self._failure

    def _run(self) -> None:
        job = self.job
        try:
            self._write()
            if job.rank == 0:
                manifests = _collect_manifests(job)
                commit(job, manifests)
                self._after_commit()
        except PeerFailedError:
            self._failure = ""
        except Exception as error:  # reported by `result`, on the main thread of every rank
            self._failure = f"rank {job.rank}: {error}"
            logger.error("checkpoint %s: %s", job.path.name, self._failure)
            _mark_failure(job)

    def _write(self) -> None:
        """This rank's file, then its note (renamed into place: rank 0 never reads half of one)."""
        job, fragment_specs = self.job, self._fragment_specs
        assert self._staging.buffer is not None
        name = f"rank-{job.rank:05d}.safetensors"
        lengths = {f"{p.name}/{state}": p.length for p in fragment_specs for state in p.states}
        data = self._staging.buffer.numpy().data
        entry = write_file(job.partial / name, [vectors_header(lengths), data])
        rank_manifest = {
            "file": name,
            "entry": entry.model_dump(),
            "pieces": [fragment.__dict__ for fragment in fragment_specs],
        }
        draft = job.partial / f".note-{job.rank:05d}"
        write_file(draft, [json.dumps(rank_manifest).encode()])
        draft.rename(_manifest_path(job, job.rank))


def _manifest_path(job: SaveJob, rank: int) -> Path:
    return job.partial / f"note-{rank:05d}.json"


def _failure_marker(job: SaveJob, rank: int) -> Path:
    return job.partial / f"failed-{rank:05d}"


def _mark_failure(job: SaveJob) -> None:
    """Tell rank 0 with an empty file: that needs no room on the disk."""
    try:
        _failure_marker(job, job.rank).touch()
    except OSError as error:
        logger.error("checkpoint %s: rank %d cannot say so: %s", job.path.name, job.rank, error)


def _collect_manifests(job: SaveJob) -> list[dict[str, Any]]:
    """All ranks' notes, once they are there. PeerFailedError, or TimeoutError if one is late."""
    manifests: dict[int, dict[str, Any]] = {}
    deadline, pause = time.monotonic() + job.commit_timeout, 0.005
    while len(manifests) < job.world_size:
        for rank in set(range(job.world_size)) - set(manifests):
            if _manifest_path(job, rank).exists():
                manifests[rank] = json.loads(_manifest_path(job, rank).read_bytes())
            elif _failure_marker(job, rank).exists():
                raise PeerFailedError(rank)
        if len(manifests) < job.world_size:
            missing = sorted(set(range(job.world_size)) - set(manifests))
            if time.monotonic() > deadline:
                raise TimeoutError(f"ranks {missing} had not written after {job.commit_timeout} s")
            time.sleep(pause)
            pause = min(2 * pause, 0.5)
    return [manifests[rank] for rank in range(job.world_size)]


def commit(job: SaveJob, manifests: list[dict[str, Any]]) -> None:
    """Write recipe and index, then make the folder current by a rename."""
    files = {
        rank_manifest["file"]: FileEntry.model_validate(rank_manifest["entry"])
        for rank_manifest in manifests
    }
    files[RECIPE_NAME] = write_file(job.partial / RECIPE_NAME, [job.state.recipe.encode()])
    parameters = _merge(manifests)
    gaps = list(coverage_errors(parameters))
    if gaps:
        raise RuntimeError(f"the ranks' slices do not make whole tensors: {gaps[0]}")
    index = Index(
        writer=job.writer,
        number=job.number,
        permanent=job.permanent,
        state=job.state,
        optimizer_steps=job.optimizer_steps,
        grid=SavedGrid(tensor=job.tensor, data=job.data, zero_stage=job.zero_stage),
        files=files,
        parameters=parameters,
    )
    write_file(job.partial / INDEX_NAME, [index.dump()])
    for rank in range(job.world_size):
        _manifest_path(job, rank).unlink()
    sync_folder(job.partial)
    replaced = job.path.with_name(f".replaced-{job.path.name}-{uuid.uuid4().hex[:8]}")
    if job.path.exists():  # the same step again, after an older or a damaged one was continued
        job.path.rename(replaced)
    job.partial.rename(job.path)
    sync_folder(job.path.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _merge(manifests: list[dict[str, Any]]) -> dict[str, SavedParameter]:
    """What all ranks wrote, by parameter and share."""
    shapes: dict[str, tuple[tuple[int, ...], int | None]] = {}
    ranges: dict[str, dict[int, Any]] = {}
    slices: dict[tuple[str, int], list[Slice]] = {}
    for rank_manifest in manifests:
        for fragment in rank_manifest["pieces"]:
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
