"""Sums of per-token losses by component (source and language), kept on the device until a log line.

The sums are float64: a step has millions of masked tokens, and the mean over a language must not
depend on how many steps it is taken over.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as distributed
from torch import Tensor

from mmbert.parallel.process_grid import Group


@dataclass(frozen=True)
class ComponentLosses:
    """Sums over some tokens: `loss` and `count` float64 [components], in nats and tokens."""

    loss: npt.NDArray[np.float64]
    count: npt.NDArray[np.float64]

    def mean(self, components: npt.NDArray[np.int64] | None = None) -> float | None:
        """Mean loss per token over `components` (all by default); None without tokens."""
        chosen = slice(None) if components is None else components
        count = float(self.count[chosen].sum())
        return float(self.loss[chosen].sum()) / count if count else None


class LossMeter:
    """Adds up per-token losses [K] on the device; no call but `collect` waits for it."""

    def __init__(self, components: int, device: torch.device) -> None:
        # The last entry takes the empty mask slots.
        self._sums = torch.zeros((2, components + 1), dtype=torch.float64, device=device)

    def add(self, losses: Tensor, weights: Tensor, components: Tensor) -> None:
        """Add one row.

        Args:
            losses: float32 [K], 0 where the weight is 0.
            weights: float32 [K], 1 for a masked token, 0 for an empty slot.
            components: int64 [K], the token's component, −1 for an empty slot.
        """
        # Indexing from the end: −1 is the last entry.
        index = components.remainder(self._sums.shape[1])
        self._sums[0].index_add_(0, index, losses.detach().double())
        self._sums[1].index_add_(0, index, weights.double())

    def collect(self, group: Group) -> ComponentLosses:
        """Sum over the data ranks (`group`), copy to the host, and start anew."""
        sums = self._sums.clone()
        self._sums.zero_()
        if group.size > 1:
            distributed.all_reduce(sums, group=group.group)
        values = sums.cpu().numpy()[:, :-1]
        return ComponentLosses(values[0], values[1])
