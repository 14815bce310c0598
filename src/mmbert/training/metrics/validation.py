"""Validation loss on held-out rows, with fixed rows and masks (or fixed next tokens).

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
from mmbert.data.loading.validation_rows import unigram_counts, unigram_loss
from mmbert.data.sampling.component_table import ComponentTable
from mmbert.data.sampling.loss_table import LossTable
from mmbert.data.shards.corpus import Corpus
from mmbert.parallel.host_group import HostGroup
from mmbert.parallel.process_grid import DataGroup
from mmbert.recipe import RotaryBases
from mmbert.training.metrics.loss_meter import LossMeter


class Validator:
    """Evaluates this rank's held-out rows.

    Every rank has the same number of rows (some may be empty), because ZeRO 3 gathers weights
    collectively in each forward pass. `causal`: the rows are of next tokens.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        table: ComponentTable,
        data_group: DataGroup,
        device: torch.device,
        *,
        causal: bool = False,
    ) -> None:
        self._rows, self._table = rows, table
        self._group, self._device = data_group, device
        self._causal = causal

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
            losses = module(
                batch, rotary_bases=rotary_bases, dropout_seed=None, causal=self._causal
            )
            components = torch.from_numpy(row.masked_components).to(self._device).long()
            meter.add(losses, batch.weights, components)
        module.train(was_training)
        return meter.collect(self._group)

    def unigram(self, corpus: Corpus, host_group: HostGroup) -> LossTable:
        """Evaluate a unigram model of the training tokens on the same rows; collective.

        The ranks divide the languages among them: all text for it is read once for the whole run.
        """
        counts = np.empty(0)

        def count() -> None:
            nonlocal counts
            counts = unigram_counts(corpus, host_group.rank, host_group.world_size)

        host_group.raise_on_all_ranks(count)
        total = np.array(host_group.sum(counts.tolist())).astype(np.int64)
        found = unigram_loss(corpus, self._rows, counts=total)
        sums = torch.from_numpy(np.stack([found.loss, found.count])).to(self._device)
        if self._group.size > 1:
            distributed.all_reduce(sums, group=self._group.group)
        return LossTable(*sums.cpu().numpy())
