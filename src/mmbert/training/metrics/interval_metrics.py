"""Counts and times of training steps on this rank, and their sums over ranks for a log line."""

import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from mmbert.data.loading.rows import Row
from mmbert.model.flops import training_flops
from mmbert.parallel.host_group import HostGroup
from mmbert.parallel.process_grid import ProcessGrid
from mmbert.recipe import ModelSettings
from mmbert.training.metrics.step_timer import REGIONS


@dataclass(frozen=True)
class IntervalSums:
    """Sums over all data ranks and the steps of one interval."""

    component_tokens: npt.NDArray[np.float64]
    """Tokens of each component, including begin and end tokens, excluding padding."""
    trained_tokens: npt.NDArray[np.float64]
    """Tokens of each component since the run began, counted likewise."""
    row_tokens: float
    """Number of tokens in the rows, including padding."""
    flops: float
    seconds: float
    time_split: dict[str, float]
    """Seconds in each region, averaged over ranks (see `StepTimer`)."""
    peak_memory_bytes: float
    """Maximum over ranks of the memory of the device (GPU) or of the process (CPU)."""
    own_work: npt.NDArray[np.float64]
    """Numbers about every rank's own work [ranks, n] (see `OwnWork`)."""

    @property
    def tokens(self) -> float:
        """Number of tokens, excluding padding."""
        return float(self.component_tokens.sum())

    @property
    def packing_efficiency(self) -> float:
        """Fraction of row tokens that are not padding."""
        return self.tokens / self.row_tokens if self.row_tokens else 0.0


@dataclass
class IntervalMetrics:
    """Counts of this rank, since the last log line and since the run began or resumed.

    Tensor ranks see the same rows; only the first rank of a tensor group counts them.
    """

    components: int
    """Number of components."""
    model: ModelSettings
    vocabulary_size: int
    grid: ProcessGrid
    device: torch.device
    causal: bool = False
    """Whether the rows are of a causal phase."""
    component_tokens: npt.NDArray[np.float64] = field(init=False)
    """float64 [components]: tokens trained on by this rank since the run began or resumed."""
    row_tokens: float = field(init=False)
    flops: float = field(init=False)
    started: float = field(init=False)
    step_started: float = field(init=False)

    def __post_init__(self) -> None:
        self.resume(np.zeros(self.components))

    def resume(self, trained_tokens: npt.NDArray[np.float64]) -> None:
        """Resume from `trained_tokens` [components], the tokens trained on by all ranks."""
        self._resumed_with = trained_tokens
        self.component_tokens = np.zeros(self.components)
        self.restart()

    def restart(self) -> None:
        """Begin a new interval."""
        self._before = self.component_tokens.copy()
        self.row_tokens = self.flops = 0.0
        self.started = self.step_started = time.perf_counter()

    def exclude(self, seconds: float) -> None:
        """Exclude the last `seconds`, which were not spent on training."""
        self.started += seconds
        self.step_started += seconds

    def end_step(self) -> float:
        """Return the seconds since the last step ended."""
        before, self.step_started = self.step_started, time.perf_counter()
        return self.step_started - before

    def add(self, row: Row) -> None:
        """Count a trained row."""
        if self.grid.tensor.rank != 0:
            return
        lengths, components = document_lengths(row)
        self.component_tokens += np.bincount(components, weights=lengths, minlength=self.components)
        self.row_tokens += len(row.input_ids)
        self.flops += training_flops(
            self.model,
            self.vocabulary_size,
            lengths,
            len(row.masked_positions),
            causal=self.causal,
        )

    def totals(self, host_group: HostGroup) -> npt.NDArray[np.float64]:
        """Return the tokens of the run by component, summed over all ranks; collective."""
        return self._resumed_with + np.asarray(host_group.sum(self.component_tokens.tolist()))

    def collect(
        self, host_group: HostGroup, time_split: dict[str, float], own_work: Sequence[float] = ()
    ) -> IntervalSums:
        """Sum over all ranks and begin a new interval; collective.

        Args:
            time_split: this rank's seconds per region of REGIONS.
            own_work: numbers about this rank's own work, as many on every rank.
        """
        assert set(time_split) <= set(REGIONS)
        seconds = time.perf_counter() - self.started
        own = [time_split.get(name, 0.0) for name in REGIONS]
        tokens = self.component_tokens
        counts = [*(tokens - self._before), *tokens, self.row_tokens, self.flops]
        sums, count = host_group.sum([*counts, *own]), self.components
        by_rank = host_group.gather_numbers([peak_memory(self.device), *own_work])
        result = IntervalSums(
            component_tokens=np.asarray(sums[:count]),
            trained_tokens=self._resumed_with + np.asarray(sums[count : 2 * count]),
            row_tokens=sums[2 * count],
            flops=sums[2 * count + 1],
            seconds=seconds,
            time_split={
                name: total / host_group.world_size
                for name, total in zip(REGIONS, sums[len(counts) :], strict=True)
                if total > 0
            },
            peak_memory_bytes=float(by_rank[:, 0].max()),
            own_work=by_rank[:, 1:],
        )
        self.restart()
        return result


def document_lengths(row: Row) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the lengths in tokens and the components of a row's documents, without padding."""
    starts = row.cu_seqlens.astype(np.int64)
    lengths = starts[1:] - starts[:-1]
    components = row.segment_components.astype(np.int64)
    real = components >= 0
    return lengths[real], components[real]


def peak_memory(device: torch.device) -> float:
    """Return the peak memory in bytes of the device (GPU) or of the process (CPU)."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)
