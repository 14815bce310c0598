"""Staging of a checkpoint: a copy of one rank's fragments in host memory."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from mmbert.parallel.zero_fragment import MASTER, ParameterFragment, RowState


@dataclass(frozen=True)
class FragmentSpec:
    """Location of a fragment written by this rank: a range of a shard, without values."""

    name: str
    shape: tuple[int, ...]
    split_dimension: int | None
    tensor_rank: int
    ranges: tuple[tuple[int, int], ...]
    start: int
    length: int
    states: tuple[str, ...]
    """Of a parameter `MASTER` and others; of rows of a matrix the first row alone."""

    @property
    def is_of_rows(self) -> bool:
        """Whether it is a state of rows, listed apart from parameters."""
        return MASTER not in self.states


_Written = tuple[FragmentSpec, tuple[Tensor, ...]]


class HostStaging:
    """Host buffer for one rank's states, reused between saves (pinned if training on a GPU)."""

    def __init__(self) -> None:
        self.buffer: Tensor | None = None

    def prepare(
        self,
        fragments: Iterable[ParameterFragment],
        device: torch.device,
        row_states: Iterable[RowState] = (),
    ) -> None:
        """Allocate and touch the buffer in advance: allocation takes longer than the copy."""
        self._reserve(_written_here(fragments, row_states), device)
        assert self.buffer is not None
        self.buffer.zero_()

    def _reserve(self, written: list[_Written], device: torch.device) -> None:
        total = sum(spec.length * len(tensors) for spec, tensors in written)
        if self.buffer is None or self.buffer.numel() != total:
            self.buffer = torch.empty(total, dtype=torch.float32, pin_memory=device.type == "cuda")

    def stage(
        self,
        fragments: Iterable[ParameterFragment],
        device: torch.device,
        row_states: Iterable[RowState] = (),
    ) -> tuple[FragmentSpec, ...]:
        """Copy what this rank writes to the buffer, in file order. Synchronous.

        Parameters replicated across tensor ranks are written by the first tensor rank only.
        """
        written = _written_here(fragments, row_states)
        self._reserve(written, device)
        assert self.buffer is not None
        offset = 0
        for spec, tensors in written:
            for tensor in tensors:
                target = self.buffer[offset : offset + spec.length]
                target.copy_(tensor, non_blocking=True)
                offset += spec.length
        if device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()
        return tuple(spec for spec, _ in written)


def _written_here(
    fragments: Iterable[ParameterFragment], row_states: Iterable[RowState]
) -> list[_Written]:
    written = [
        (_spec_of(fragment), tuple(fragment.states.values()))
        for fragment in fragments
        if fragment.spec.is_split or fragment.tensor_rank == 0
    ]
    return [*written, *((_spec_of_rows(rows), (rows.values,)) for rows in row_states)]


def _spec_of(fragment: ParameterFragment) -> FragmentSpec:
    return FragmentSpec(
        name=fragment.name,
        shape=tuple(fragment.spec.full_shape),
        split_dimension=fragment.spec.split_dimension,
        tensor_rank=fragment.tensor_rank,
        ranges=tuple(fragment.spec.ranges(fragment.tensor_rank, fragment.tensor_size)),
        start=fragment.start,
        length=fragment.length,
        states=tuple(fragment.states),
    )


def _spec_of_rows(rows: RowState) -> FragmentSpec:
    """Return the spec of a matrix's rows; a file may hold those of several of one parameter."""
    count = rows.spec.full_shape[0]
    return FragmentSpec(
        name=f"{rows.spec.name}/{rows.state}",
        shape=(count,),
        split_dimension=None,
        tensor_rank=0,
        ranges=((0, count),),
        start=rows.start,
        length=len(rows.values),
        states=(str(rows.start),),
    )
