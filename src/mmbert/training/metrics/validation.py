"""Validation: the loss on held-out rows, with the same rows and masks every time.

Each data rank keeps a part of the rows in memory and evaluates it without dropout. The sums per
component are reduced over the data ranks, so that the result does not depend on their number.
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

    Every rank has the same number of rows (some may be empty), because under ZeRO 3 all ranks
    gather weights together in each pass.
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
        """Evaluate every row (every rank calls it); restores the mode of `module`.

        Args:
            heartbeat: called before each row, so that a long validation is not taken for a hang.
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
        """Evaluate a unigram model of the training tokens on the same rows, on all ranks."""
        found = unigram_loss(corpus, self._rows)
        sums = torch.from_numpy(np.stack([found.loss, found.count])).to(self._device)
        if self._group.size > 1:
            distributed.all_reduce(sums, group=self._group.group)
        return LossTable(*sums.cpu().numpy())
