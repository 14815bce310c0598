"""Reader of checkpoints written on any grid: ranges of a new grid's shards, or full tensors.

Needs neither deepspeed nor torch.distributed, and reads no pickle.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mmbert.checkpoint.format import (
    INDEX_NAME,
    Index,
    Shard,
    check_file,
    damaged_error,
    shape_of_shard,
)
from mmbert.errors import CheckpointError, ResumeError, UserError


@dataclass(frozen=True)
class _SavedShard:
    """One state of a saved shard as [outer, width, inner]; `width` is the split dimension."""

    read: Callable[[int, int], Tensor]
    """Function of (start, length) that reads elements of the flattened shard."""
    width: int
    inner: int

    def part(self, rows: range, columns: range) -> Tensor:
        """Return float32 [rows, columns, inner]. Reads whole rows, or columns of a single row."""
        if len(rows) == 1:
            start = (rows.start * self.width + columns.start) * self.inner
            values = self.read(start, len(columns) * self.inner)
            return values.view(1, len(columns), self.inner)
        stride = self.width * self.inner
        values = self.read(rows.start * stride, len(rows) * stride)
        return values.view(len(rows), self.width, self.inner)[:, columns.start : columns.stop]


class CheckpointReader:
    """Reader of one checkpoint, with memory-mapped files until it is closed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.index = Index.read(path)
        self._files: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.clear()

    def full(self, name: str, state: str = "master") -> Tensor:
        """Return the full float32 tensor of a parameter, or of one of its optimizer states."""
        parameter = self.index.parameters[name]
        tensor = torch.empty(parameter.shape, dtype=torch.float32)
        for shard in parameter.shards:
            shape = parameter.shard_shape(shard)
            values = self._flat(name, state, shard, 0, math.prod(shape)).view(shape)
            _copy_ranges(values, tensor, parameter.split_dimension, shard.ranges)
        return tensor

    def shard_range(
        self,
        name: str,
        state: str,
        *,
        ranges: Sequence[tuple[int, int]],
        start: int,
        length: int,
    ) -> Tensor:
        """Return `length` elements of a flattened shard from `start` on, in float32.

        Reads only the rows of the saved shards that contain these elements.

        Args:
            ranges: ranges of the shard along the split dimension, in the reading grid.
        """
        parameter = self.index.parameters[name]
        dimension = parameter.split_dimension
        if dimension is None:
            return self._flat(name, state, parameter.shards[0], start, length)
        for shard in parameter.shards:
            if tuple(ranges) == shard.ranges:  # same split: no rearranging
                return self._flat(name, state, shard, start, length)
        shape = shape_of_shard(parameter.shape, dimension, ranges)
        outer, width = math.prod(shape[:dimension]), shape[dimension]
        inner = math.prod(shape[dimension + 1 :])
        # The elements lie in rows [first, last) of the outer dimensions; with a single row (as for
        # a split along dimension 0), in entries [low, high) of the split dimension.
        row = width * inner
        first, last = start // row, -(-(start + length) // row)
        low, high = 0, width
        if outer == 1:
            low, high = start // inner, -(-(start + length) // inner)
        wanted = _cut(ranges, low, high)
        block = torch.empty((last - first, high - low, inner), dtype=torch.float32)
        for shard in parameter.shards:
            saved = _SavedShard(
                partial(self._flat, name, state, shard),
                width=parameter.shard_shape(shard)[dimension],
                inner=inner,
            )
            for target, source, count in _overlaps(wanted, shard.ranges):
                part = saved.part(range(first, last), range(source, source + count))
                block[:, target : target + count] = part
        offset = start - first * row - low * inner
        return block.flatten()[offset : offset + length]

    def rows(self, name: str, state: str, *, start: int, length: int) -> Tensor:
        """Return a state's values of `length` rows of a parameter from row `start` on, in float32.

        Raises:
            ResumeError: the checkpoint has no such state.
        """
        saved = self.index.row_states.get(f"{name}/{state}")
        if saved is None:
            raise self._missing(INDEX_NAME, name, state)
        result = torch.empty(length, dtype=torch.float32)
        for slice_ in saved.shards[0].slices:
            begin = max(start, slice_.start)
            end = min(start + length, slice_.start + slice_.length)
            if begin < end:
                values = self._slice(slice_.file, f"{name}/{state}", str(slice_.start))
                part = values[begin - slice_.start : end - slice_.start]
                result[begin - start : end - start] = part
        return result

    def keeps(self, name: str, state: str) -> bool:
        """Return whether any slice of a parameter has a state: the writer's optimizer kept it."""
        slices = (one for shard in self.index.parameters[name].shards for one in shard.slices)
        return any(f"{name}/{state}" in set(self._open(one.file).keys()) for one in slices)

    def _flat(self, name: str, state: str, shard: Shard, start: int, length: int) -> Tensor:
        """Return `length` elements of a flattened saved shard from `start` on, in float32."""
        result = torch.empty(length, dtype=torch.float32)
        for slice_ in shard.slices:
            begin = max(start, slice_.start)
            end = min(start + length, slice_.start + slice_.length)
            if begin < end:
                saved = self._slice(slice_.file, name, state)
                part = saved[begin - slice_.start : end - slice_.start]
                result[begin - start : end - start] = part
        return result

    def _slice(self, file: str, name: str, state: str) -> Any:
        try:
            return self._open(file).get_slice(f"{name}/{state}")
        except SafetensorError:
            raise self._missing(file, name, state) from None

    def _missing(self, file: str, name: str, state: str) -> ResumeError:
        return ResumeError(
            f"{self.path / file} has no {state} of {name}",
            remedy="continue with the optimizer that wrote the checkpoint (recipe.yaml in it)",
        )

    def _open(self, file: str) -> Any:
        if file not in self._files:
            path = self.path / file
            try:
                self._files[file] = safe_open(path, framework="pt")
            except Exception as error:  # safetensors raises its own and OS errors
                raise damaged_error(path, f"cannot be read ({error})") from None
        return self._files[file]


def _cut(ranges: Sequence[tuple[int, int]], low: int, high: int) -> list[tuple[int, int]]:
    """Return the part of the concatenated ranges at positions [low, high)."""
    result, position = [], 0
    for start, stop in ranges:
        begin, end = max(low - position, 0), min(high - position, stop - start)
        if begin < end:
            result.append((start + begin, start + end))
        position += stop - start
    return result


def _overlaps(
    wanted: Sequence[tuple[int, int]], held: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, int, int]]:
    """Yield overlaps as (position in concatenated `wanted`, in concatenated `held`, length)."""
    target = 0
    for start, stop in wanted:
        source = 0
        for begin, end in held:
            low, high = max(start, begin), min(stop, end)
            if low < high:
                yield target + low - start, source + low - begin, high - low
            source += end - begin
        target += stop - start


def _copy_ranges(
    values: Tensor, full: Tensor, dimension: int | None, ranges: Sequence[tuple[int, int]]
) -> None:
    if dimension is None:
        full.copy_(values)
        return
    offset = 0
    for start, stop in ranges:
        part = values.narrow(dimension, offset, stop - start)
        full.narrow(dimension, start, stop - start).copy_(part)
        offset += stop - start


def read_parameters(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, full float32 weight) of every parameter of the checkpoint at `path`.

    Verifies every checksum first.

    Raises:
        UserError: `path` is not a checkpoint, or the checkpoint is damaged.
    """
    if not path.is_dir():
        raise CheckpointError(
            f"{path} is not a checkpoint folder",
            remedy="give a folder such as RUN/checkpoints/step-00000100",
        )
    problem = verify_checkpoint(path)
    if problem is not None:
        raise problem
    with CheckpointReader(path) as reader:
        for name in reader.index.parameters:
            yield name, reader.full(name)


def verify_checkpoint(path: Path, *, rank: int = 0, world_size: int = 1) -> UserError | None:
    """Return the first error in a checkpoint; None if it is valid. Reads every file once.

    With several ranks, each verifies every `world_size`-th file.
    """
    try:
        index = Index.read(path)
    except UserError as error:
        return error
    for name in list(index.files)[rank::world_size]:
        what = check_file(path / name, index.files[name])
        if what is not None:
            return damaged_error(path / name, what)
    return None


__all__ = ["CheckpointReader", "read_parameters", "verify_checkpoint"]
