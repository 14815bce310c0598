"""Checkpoint format: safetensors files of float32 slices, and an index that describes them.

    step-00000100/
        index.json              run state, locations of slices, checksums of all files and itself
        recipe.yaml             resolved recipe
        rank-00000.safetensors  "NAME/master", "NAME/exp_avg", "NAME/exp_avg_sq", each a vector

A slice is a range of the flattened shard of one parameter on one tensor rank. The index lists the
ranges of the full tensor in each shard, so that a reader needs neither the writer's grid nor its
sharding code. States of rows are apart: "NAME/row_exp_avg_sq/FIRST_ROW", one vector per matrix.
"""

import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import xxhash
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError, model_validator

from mmbert.checkpoint.safetensors_header import safetensors_header
from mmbert.errors import CheckpointError
from mmbert.files import parse_json

FORMAT = 1
INDEX_NAME = "index.json"
RECIPE_NAME = "recipe.yaml"
CHUNK = 16 * 2**20
"""Chunk size for writing and hashing, in bytes."""


class CheckpointDamagedError(CheckpointError):
    """Damaged checkpoint; `message` names the file and the problem."""


# A checkpoint from elsewhere must name no file outside its folder.
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RunState(_Model):
    """State needed to resume a run besides weights and optimizer states."""

    step: int
    """Number of finished optimizer steps; also the index of the next step."""
    tokens: int
    """Nominal tokens of the finished steps."""
    phase: str
    """Phase of the last finished step."""
    recipe: str
    """Resolved recipe as YAML."""
    data: dict[str, Any] = {}
    """State of the data streams, from the row loader."""
    tokenizer: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]*$")] = ""
    """Tokenizer folder, relative to the run folder."""
    language_tokens: dict[str, int] = {}
    """Training tokens so far, by language."""
    extra: dict[str, Any] = {}
    """Other JSON-serializable state of the training loop."""
    phase_end: bool = False
    """Whether the checkpoint is the end of a phase; such checkpoints are never deleted."""


class FileEntry(_Model):
    """Size and checksum of a file."""

    bytes: int
    xxh3_128: str


class Slice(_Model):
    """Elements [start, start + length) of a flattened shard, in `file`."""

    file: FileName
    start: NonNegativeInt
    length: NonNegativeInt


class Shard(_Model):
    """Shard of one tensor rank: its ranges along the split dimension, and its slices."""

    ranges: tuple[tuple[int, int], ...]
    slices: tuple[Slice, ...]


def _are_contiguous(pieces: Sequence[tuple[int, int]], size: int) -> bool:
    """Whether the pieces [start, stop), in any order, cover [0, size) once."""
    end = 0
    for start, stop in sorted(pieces):
        if start != end or stop < start:
            return False
        end = stop
    return end == size


class SavedParameter(_Model):
    """Full shape, split dimension (None: not split) and shards of a parameter."""

    shape: tuple[NonNegativeInt, ...]
    split_dimension: NonNegativeInt | None
    shards: tuple[Shard, ...]

    @model_validator(mode="after")
    def _shards_cover_the_shape(self) -> Self:
        """Raise unless shards and slices hold every element exactly once.

        Readers allocate the shape and fill it from the slices: what none holds would be garbage.
        """
        if self.split_dimension is not None and self.split_dimension >= len(self.shape):
            raise ValueError(f"no dimension {self.split_dimension} in shape {self.shape}")
        size = self.shape[self.split_dimension or 0] if self.shape else 1
        if not _are_contiguous([range_ for shard in self.shards for range_ in shard.ranges], size):
            raise ValueError(f"the shards' ranges do not cover shape {self.shape} once")
        for shard in self.shards:
            slices = [(one.start, one.start + one.length) for one in shard.slices]
            if not _are_contiguous(slices, math.prod(self.shard_shape(shard))):
                raise ValueError(f"the slices do not cover a shard of shape {self.shape} once")
        return self

    def shard_shape(self, shard: Shard) -> tuple[int, ...]:
        """Return the shape of a shard."""
        return shape_of_shard(self.shape, self.split_dimension, shard.ranges)


class SavedGrid(_Model):
    """Grid that wrote a checkpoint; informational, not needed for reading."""

    tensor: int
    data: int
    zero_stage: int


class Index(_Model):
    """Contents of index.json."""

    format: int = FORMAT
    writer: str
    number: int
    """Number of the checkpoint in the run, from 0."""
    permanent: bool
    """Whether retention never deletes it: the end of a phase, or every Nth checkpoint."""
    state: RunState
    optimizer_steps: int
    grid: SavedGrid
    files: dict[FileName, FileEntry]
    parameters: dict[str, SavedParameter]
    row_states: dict[str, SavedParameter] = {}
    """Optimizer states with one value for each row of a parameter, by "NAME/STATE"."""

    @model_validator(mode="after")
    def _all_fits(self) -> Self:
        """Raise if rows have no parameter, or a file is smaller than a slice in it: nothing large
        is allocated in vain."""
        for key, rows in self.row_states.items():
            parameter = self.parameters.get(key.rpartition("/")[0])
            if parameter is None or rows.shape != parameter.shape[:1]:
                raise ValueError(f"{key} of shape {rows.shape} has not one value for each row")
        for name, parameter in (*self.parameters.items(), *self.row_states.items()):
            for slice_ in (slice_ for shard in parameter.shards for slice_ in shard.slices):
                entry = self.files.get(slice_.file)
                if entry is None or 4 * slice_.length > entry.bytes:
                    raise ValueError(f"{slice_.file} is too small for the slices of {name}")
        return self

    @property
    def total_bytes(self) -> int:
        """Bytes of all files except the index."""
        return sum(entry.bytes for entry in self.files.values())

    def dump(self) -> bytes:
        """Serialize the index, with a checksum of the rest as its last entry."""
        values = self.model_dump(mode="json")
        if not self.row_states:
            del values["row_states"]  # readers of earlier versions know no such key
        return json.dumps(values | {"xxh3_128": _digest(values)}, indent=1).encode()

    @classmethod
    def read(cls, checkpoint: Path) -> Self:
        """Read and verify index.json. Raises CheckpointDamagedError if it is missing or damaged."""
        path = checkpoint / INDEX_NAME
        try:
            values = parse_json(path.read_bytes())
            checksum = values.pop("xxh3_128")
        except FileNotFoundError:
            raise damaged_error(path, "is missing") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise damaged_error(path, f"cannot be read ({error})") from None
        if checksum != _digest(values):
            raise damaged_error(path, "is corrupted (checksum mismatch)")
        if values.get("format") != FORMAT:
            raise CheckpointError(
                f"{path} has format {values.get('format')}; this version reads {FORMAT}",
                remedy="use the version of mmbert that wrote it",
            )
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise damaged_error(path, f"is invalid ({error})") from None


def _digest(values: dict[str, Any]) -> str:
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return str(xxhash.xxh3_128_hexdigest(canonical.encode()))


def damaged_error(path: Path, what: str) -> CheckpointDamagedError:
    """Return the error for an unusable file; `what` is the predicate of the message."""
    return CheckpointDamagedError(
        f"{path} {what}",
        remedy=f"delete the folder {path.parent} or restore it from a copy; earlier checkpoints "
        "are not affected",
    )


def shape_of_shard(
    shape: Sequence[int], split_dimension: int | None, ranges: Sequence[tuple[int, int]]
) -> tuple[int, ...]:
    """Return the shape of a shard: `shape` with only `ranges` along `split_dimension`."""
    if split_dimension is None:
        return tuple(shape)
    width = sum(stop - start for start, stop in ranges)
    return (*shape[:split_dimension], width, *shape[split_dimension + 1 :])


def vectors_header(lengths: dict[str, int]) -> bytes:
    """Build the header of a safetensors file of float32 vectors, in the order of `lengths`."""
    vectors = {name: ("F32", [length], 4 * length) for name, length in lengths.items()}
    return safetensors_header(vectors)[0]


def write_file(path: Path, parts: Sequence[bytes | memoryview]) -> FileEntry:
    """Write `parts` to a file, flush it to disk, read it back and compare checksums.

    Returns the file's size and checksum. Raises OSError if the disk is full or returns other data.
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
        raise OSError(f"{path} {problem} immediately after writing")
    return entry


def check_file(path: Path, entry: FileEntry) -> str | None:
    """Verify size and checksum of a file; return None or the problem as a predicate."""
    try:
        size = path.stat().st_size
        if size != entry.bytes:
            how = "is truncated" if size < entry.bytes else "is too long"
            return f"{how} ({size} of {entry.bytes} bytes)"
        found = _hash_of_file(path)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error})"
    if found != entry.xxh3_128:
        return "is corrupted (checksum mismatch)"
    return None


def file_entry(path: Path) -> FileEntry:
    """Return size and checksum of a file as it lies on disk."""
    return FileEntry(bytes=path.stat().st_size, xxh3_128=_hash_of_file(path))


def _hash_of_file(path: Path) -> str:
    hashing = xxhash.xxh3_128()
    buffer = memoryview(bytearray(min(CHUNK, max(1, path.stat().st_size))))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            hashing.update(buffer[:count])
    return str(hashing.hexdigest())


def coverage_errors(parameters: dict[str, SavedParameter]) -> Iterator[str]:
    """Yield a message for every gap or overlap of slices; none if they cover every shard."""
    for name, parameter in parameters.items():
        for number, shard in enumerate(parameter.shards):
            covered, where = 0, f"{name}, shard {number}"
            for slice_ in sorted(shard.slices, key=lambda slice_: slice_.start):
                if slice_.start != covered:
                    yield f"{where}: a slice ends at {covered}, the next starts at {slice_.start}"
                covered = slice_.start + slice_.length
            wanted = math.prod(parameter.shard_shape(shard))
            if covered != wanted:
                yield f"{where}: slices end at {covered} of {wanted}"
