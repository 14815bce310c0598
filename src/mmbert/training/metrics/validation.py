"""Validation loss on held-out rows, with fixed rows and masks.

Each data rank keeps its share of the rows in memory and evaluates it without dropout. The sums per
component are all-reduced over the data ranks, so that the result does not depend on their number.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.distributed as distributed
from torch import nn

from mmbert.data.loading.device_batch import to_batch
from mmbert.data.loading.rows import Row
from mmbert.data.loading.validation_rows import unigram_loss
from mmbert.data.sampling.component_table import ComponentTable
from mmbert.data.sampling.loss_table import LossTable
from mmbert.data.shards.corpus import Corpus
from mmbert.parallel.process_grid import DataGroup
from mmbert.recipe import RotaryBases
from mmbert.training.metrics.loss_meter import LossMeter


class Validator:
    """Evaluates this rank's held-out rows.

    Every rank has the same number of rows (some may be empty), because ZeRO 3 gathers weights
    collectively in each forward pass.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        table: ComponentTable,
        data_group: DataGroup,
        device: torch.device,
    ) -> None:
        self._rows, self._table = rows, table
        self._group, self._device = data_group, device

    @torch.no_grad()
    def validate(
        self, module: nn.Module, rotary_bases: RotaryBases, heartbeat: Callable[[], None]
    ) -> LossTable:
        """Evaluate all rows; collective. Restores the training mode of `module`.

        Args:
            heartbeat: called before each row, so that a long validation does not count as a hang.
        """
        meter = LossMeter(len(self._table.names), self._device)
        was_training = module.training
        module.eval()
        for row in self._rows:
            heartbeat()
            batch = to_batch(row, self._device)
            losses = module(batch, rotary_bases=rotary_bases, dropout_seed=None)
            components = torch.from_numpy(row.masked_components).to(self._device).long()
            meter.add(losses, batch.weights, components)
        module.train(was_training)
        return meter.collect(self._group)

    def unigram(self, corpus: Corpus) -> LossTable:
        """Evaluate a unigram model of the training tokens on the same rows; collective."""
        found = unigram_loss(
            corpus,
            self._rows,
            rank=self._group.rank,
            ranks=self._group.size,
            sum_over_ranks=self._sum,
        )
        return LossTable(*self._sum(np.stack([found.loss, found.count])))

    def _sum(self, values: np.ndarray) -> np.ndarray:
        """Sum over the data ranks."""
        sums = torch.from_numpy(values).to(self._device)
        if self._group.size > 1:
            distributed.all_reduce(sums, group=self._group.group)
        return sums.cpu().numpy()
