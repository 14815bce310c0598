"""Sums of per-token losses by component (source and language), kept on the device until logged.

The sums are float64, because a step has millions of masked tokens and the mean of a language must
not depend on the number of steps in the interval.
"""

import torch
import torch.distributed as distributed
from torch import Tensor

from mmbert.data.sampling.loss_table import LossTable
from mmbert.parallel.process_grid import Group


class LossMeter:
    """Sums per-token losses [K] on the device; only `collect` synchronizes with it."""

    def __init__(self, components: int, device: torch.device) -> None:
        # The last entry is for empty mask slots.
        self._sums = torch.zeros((2, components + 1), dtype=torch.float64, device=device)

    def add(self, losses: Tensor, weights: Tensor, components: Tensor) -> None:
        """Add the losses of one row.

        Args:
            losses: float32 [K]; 0 where the weight is 0.
            weights: float32 [K]; 1 for a masked token, 0 for an empty slot.
            components: int64 [K], component of each token; −1 for an empty slot.
        """
        # Index −1 is mapped to the last entry.
        index = components.remainder(self._sums.shape[1])
        self._sums[0].index_add_(0, index, losses.detach().double())
        self._sums[1].index_add_(0, index, weights.double())

    def collect(self, group: Group) -> LossTable:
        """Sum over the data ranks in `group`, copy to the host, and reset."""
        sums = self._sums.clone()
        self._sums.zero_()
        if group.size > 1:
            distributed.all_reduce(sums, group=group.group)
        values = sums.cpu().numpy()[:, :-1]
        return LossTable(values[0], values[1])
