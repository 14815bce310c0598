"""A checkpoint on disk: safetensors files of float32 slices, and an index that explains them.

    step-00000100/
        index.json              the run's state, what lies where, checksums of all files and itself
        recipe.yaml             the resolved recipe
        rank-00000.safetensors  "NAME/master", "NAME/exp_avg", "NAME/exp_avg_sq", each a vector

A slice is a range of the flattened share of one parameter that one tensor rank held. The index says
which ranges of the full tensor make that share, so that nothing about the grid that wrote a
checkpoint, nor about the code that cut it, is needed to read it.
"""

import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import xxhash
from pydantic import BaseModel, ConfigDict, ValidationError

from mmbert.checkpoint.safetensors_header import safetensors_header
from mmbert.errors import UserError

FORMAT = 1
INDEX_NAME = "index.json"
RECIPE_NAME = "recipe.yaml"
CHUNK = 16 * 2**20
"""Bytes written and hashed at a time."""


class CheckpointDamagedError(UserError):
    """A checkpoint cannot be used: `message` names the file and what is wrong with it."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RunState(_Model):
    """All that a run must know to continue, beside the weights and the optimiser's states."""

    step: int
    """Optimiser steps finished; the next one to do."""
    tokens: int
    """Nominal tokens finished."""
    phase: str
    """The phase that the last finished step belongs to."""
    recipe: str
    """The resolved recipe as YAML."""
    data: dict[str, Any] = {}
    """The data streams' positions, as the loader gave them."""
    tokenizer: str = ""
    """The tokenizer's folder, relative to the run's."""
    language_tokens: dict[str, int] = {}
    """Tokens seen by language."""
    extra: dict[str, Any] = {}
    """Anything else JSON can hold that the loop wants back."""
    phase_end: bool = False
    """Whether a phase ends here: such a checkpoint is never deleted."""


class FileEntry(_Model):
    """A file's size and checksum."""

    bytes: int
    xxh3_128: str


class Slice(_Model):
    """Elements [start, start + length) of a flattened share, in `file`."""

    file: str
    start: int
    length: int


class Shard(_Model):
    """One tensor rank's share: its ranges along the split dimension, and where its slices lie."""

    ranges: tuple[tuple[int, int], ...]
    slices: tuple[Slice, ...]


class SavedParameter(_Model):
    """A parameter: its full shape, how it was split (None: not at all) and the shares."""

    shape: tuple[int, ...]
    split_dimension: int | None
    shards: tuple[Shard, ...]

    def shard_shape(self, shard: Shard) -> tuple[int, ...]:
        """The shape of a share."""
        return shape_of_shard(self.shape, self.split_dimension, shard.ranges)


class SavedGrid(_Model):
    """The grid that wrote a checkpoint; for people, reading does not need it."""

    tensor: int
    data: int
    zero_stage: int


class Index(_Model):
    """index.json."""

    format: int = FORMAT
    writer: str
    number: int
    """How many checkpoints the run had written before."""
    permanent: bool
    """Never deleted by retention: a phase's end, or every Nth."""
    state: RunState
    optimizer_steps: int
    grid: SavedGrid
    files: dict[str, FileEntry]
    parameters: dict[str, SavedParameter]

    @property
    def total_bytes(self) -> int:
        """Bytes of all files but the index."""
        return sum(entry.bytes for entry in self.files.values())

    def dump(self) -> bytes:
        """The file's content, with a checksum of the rest as its last entry."""
        values = self.model_dump(mode="json")
        return json.dumps(values | {"xxh3_128": _digest(values)}, indent=1).encode()

    @classmethod
    def read(cls, checkpoint: Path) -> Self:
        """Read and check index.json; CheckpointDamagedError if it is missing or not as written."""
        path = checkpoint / INDEX_NAME
        try:
            values = json.loads(path.read_bytes())
            checksum = values.pop("xxh3_128")
        except FileNotFoundError:
            raise damaged_error(path, "is missing") from None
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise damaged_error(path, f"cannot be read ({error})") from None
        if checksum != _digest(values):
            raise damaged_error(path, "is not as it was written (its checksum differs)")
        if values.get("format") != FORMAT:
            raise UserError(
                f"{path} has format {values.get('format')}; this version reads {FORMAT}",
                remedy="use the version of mmbert that wrote it",
            )
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise damaged_error(path, f"does not make sense ({error})") from None


def _digest(values: dict[str, Any]) -> str:
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return str(xxhash.xxh3_128_hexdigest(canonical.encode()))


def damaged_error(path: Path, what: str) -> CheckpointDamagedError:
    """The error for a file that cannot be used."""
    return CheckpointDamagedError(
        f"{path} {what}",
        remedy=f"delete the folder {path.parent} or copy it again from a sound copy; "
        "the checkpoint before it is untouched",
    )


def shape_of_shard(
    shape: Sequence[int], split_dimension: int | None, ranges: Sequence[tuple[int, int]]
) -> tuple[int, ...]:
    """The shape of the share that `ranges` along `split_dimension` cut out of `shape`."""
    if split_dimension is None:
        return tuple(shape)
    width = sum(stop - start for start, stop in ranges)
    return (*shape[:split_dimension], width, *shape[split_dimension + 1 :])


def vectors_header(lengths: dict[str, int]) -> bytes:
    """The head of a safetensors file of float32 vectors that follow each other in this order."""
    vectors = {name: ("F32", [length], 4 * length) for name, length in lengths.items()}
    return safetensors_header(vectors)[0]


def write_file(path: Path, parts: Sequence[bytes | memoryview]) -> FileEntry:
    """Write `parts` one after the other, flush them to disk, read them back and compare.

    Returns the file's size and checksum. OSError if the disk is full or gives back something else.
    """
    hashing, size = xxhash.xxh3_128(), 0
    with path.open("wb", buffering=0) as file:
        for part in parts:
            view = memoryview(part).cast("B")
            for start in range(0, len(view), CHUNK):
                chunk = view[start : start + CHUNK]
                hashing.update(chunk)
                size += len(chunk)
                while chunk:
                    chunk = chunk[file.write(chunk) :]
        os.fsync(file.fileno())
    entry = FileEntry(bytes=size, xxh3_128=hashing.hexdigest())
    problem = check_file(path, entry)
    if problem is not None:
        raise OSError(f"{path} {problem} right after it was written")
    return entry


def check_file(path: Path, entry: FileEntry) -> str | None:
    """What is wrong with a file, as the end of a sentence that its name begins; None: nothing."""
    try:
        size = path.stat().st_size
        if size != entry.bytes:
            how = "is cut short" if size < entry.bytes else "is too long"
            return f"{how}: {size} bytes instead of {entry.bytes}"
        hashing = xxhash.xxh3_128()
        with path.open("rb", buffering=0) as file:
            buffer = memoryview(bytearray(min(CHUNK, max(1, size))))
            while count := file.readinto(buffer):
                hashing.update(buffer[:count])
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error})"
    if hashing.hexdigest() != entry.xxh3_128:
        return "is not as it was written (its checksum differs)"
    return None


def coverage_errors(parameters: dict[str, SavedParameter]) -> Iterator[str]:
    """What is missing or doubled in the slices, as sentences; nothing if they cover every share."""
    for name, parameter in parameters.items():
        for number, shard in enumerate(parameter.shards):
            covered = 0
            for slice_ in sorted(shard.slices, key=lambda slice_: slice_.start):
                if slice_.start != covered:
                    yield f"{name}, share {number}: slices meet at {covered} and {slice_.start}"
                covered = slice_.start + slice_.length
            wanted = math.prod(parameter.shard_shape(shard))
            if covered != wanted:
                yield f"{name}, share {number}: slices end at {covered} of {wanted}"
