"""What happened between two log lines: counted on every rank, added up once per line."""

import resource
import sys
import time
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from mmbert.data.loading.rows import Row
from mmbert.model.flops import training_flops
from mmbert.parallel.host_group import HostGroup
from mmbert.parallel.process_grid import ProcessGrid
from mmbert.recipe import ModelSettings


@dataclass(frozen=True)
class IntervalSums:
    """Sums over all data ranks of one interval."""

    component_tokens: npt.NDArray[np.float64]
    """Real tokens (no padding) of each component, begin and end tokens counted in."""
    row_tokens: float
    """Tokens of the rows, padding counted in."""
    flops: float
    seconds: float
    time_split: dict[str, float]
    """Seconds per region, the mean over ranks."""
    peak_memory_bytes: float
    """The largest of any rank: device memory on a GPU, the process's on a CPU."""

    @property
    def tokens(self) -> float:
        """Real tokens."""
        return float(self.component_tokens.sum())

    @property
    def packing_efficiency(self) -> float:
        """The share of the rows that is not padding."""
        return self.tokens / self.row_tokens if self.row_tokens else 0.0


@dataclass
class IntervalMetrics:
    """This rank's counts since the last line. Tensor ranks see the same rows: only the first of a
    tensor group counts them."""

    components: int
    model: ModelSettings
    vocabulary_size: int
    grid: ProcessGrid
    device: torch.device
    component_tokens: npt.NDArray[np.float64] = field(init=False)
    row_tokens: float = field(init=False)
    flops: float = field(init=False)
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin a new interval now."""
        self.component_tokens = np.zeros(self.components)
        self.row_tokens = self.flops = 0.0
        self.started = time.perf_counter()

    def exclude(self, seconds: float) -> None:
        """Time that just went into something else than training."""
        self.started += seconds

    def add(self, row: Row) -> None:
        """Count one row that was trained on."""
        if self.grid.tensor.rank != 0:
            return
        lengths, components = document_lengths(row)
        self.component_tokens += np.bincount(components, weights=lengths, minlength=self.components)
        self.row_tokens += len(row.input_ids)
        self.flops += training_flops(
            self.model, self.vocabulary_size, lengths, len(row.masked_positions)
        )

    def totals(self, host_group: HostGroup) -> npt.NDArray[np.float64]:
        """Tokens by component so far, over all ranks (every rank calls it); nothing is reset."""
        return np.asarray(host_group.sum(self.component_tokens.tolist()))

    def collect(self, host_group: HostGroup, time_split: dict[str, float]) -> IntervalSums:
        """Add up over the ranks (every rank calls it) and begin anew."""
        seconds = time.perf_counter() - self.started
        regions = sorted(host_group.broadcast(time_split))
        own = [time_split.get(name, 0.0) for name in regions]
        sums = host_group.sum([*self.component_tokens, self.row_tokens, self.flops, *own])
        count = self.components
        result = IntervalSums(
            component_tokens=np.asarray(sums[:count]),
            row_tokens=sums[count],
            flops=sums[count + 1],
            seconds=seconds,
            time_split={
                name: total / host_group.world_size
                for name, total in zip(regions, sums[count + 2 :], strict=True)
            },
            peak_memory_bytes=max(host_group.gather(peak_memory(self.device))),
        )
        self.restart()
        return result


def document_lengths(row: Row) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Lengths in tokens and components of a row's documents, its padding left out."""
    starts = row.cu_seqlens.astype(np.int64)
    lengths = starts[1:] - starts[:-1]
    components = row.segment_components.astype(np.int64)
    real = components >= 0
    return lengths[real], components[real]


def peak_memory(device: torch.device) -> float:
    """Peak bytes of device memory on a GPU, of the process's memory on a CPU."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)
