"""Staging of a checkpoint: a copy of one rank's fragments in host memory."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from mmbert.parallel.zero_fragment import ParameterFragment


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


class HostStaging:
    """Host buffer for one rank's states, reused between saves (pinned if training on a GPU)."""

    def __init__(self) -> None:
        self.buffer: Tensor | None = None

    def prepare(self, fragments: Iterable[ParameterFragment], device: torch.device) -> None:
        """Allocate and touch the buffer in advance: allocation takes longer than the copy."""
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
        """Copy the fragments written by this rank to the buffer in file order. Synchronous.

        Parameters replicated across tensor ranks are written by the first tensor rank only.
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
