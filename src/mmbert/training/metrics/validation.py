"""The held-out loss, per language and per tier: the same rows and the same masks every time.

Each data rank keeps its share of the rows in memory and evaluates them without dropout; the sums
per component are added over the data ranks, so that the figures do not depend on their number.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as distributed
from torch import nn

from mmbert.data.loading.device_batch import to_batch
from mmbert.data.loading.rows import Row
from mmbert.data.loading.validation_rows import unigram_loss
from mmbert.data.sampling.component_table import ComponentTable
from mmbert.data.shards.corpus import Corpus
from mmbert.parallel.process_grid import DataGroup
from mmbert.recipe import RotaryBases
from mmbert.training.metrics.loss_meter import ComponentLosses, LossMeter


@dataclass(frozen=True)
class HeldOutLoss:
    """Mean losses in nats per masked token."""

    overall: float | None
    tiers: dict[str, float]
    languages: dict[str, float]

    @classmethod
    def of(cls, losses: ComponentLosses, table: ComponentTable) -> "HeldOutLoss":
        """Means over all tokens, over each tier's and over each language's."""
        return cls(
            losses.mean(),
            _means(losses, table.tiers, [phase.name for phase in table.plan.phases]),
            _means(losses, table.languages, sorted(set(table.languages))),
        )


def _means(
    losses: ComponentLosses, labels: Sequence[str], names: Sequence[str]
) -> dict[str, float]:
    """Mean loss of each of `names` over the components so labelled; left out without tokens."""
    of_component = np.asarray(labels)
    means = {name: losses.mean(np.flatnonzero(of_component == name)) for name in names}
    return {name: mean for name, mean in means.items() if mean is not None}


class HeldOut:
    """This rank's held-out rows, and the way to their loss.

    Every rank has equally many rows (some may be empty), so that ZeRO 3, which gathers weights in
    each pass, finds all ranks together.
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
    def loss(
        self, module: nn.Module, rotary_bases: RotaryBases, heartbeat: Callable[[], None]
    ) -> HeldOutLoss:
        """Evaluate every row (all ranks call it); `module` comes back in the mode it was in.

        Args:
            heartbeat: called before each row, so that a long evaluation is not taken for a hang.
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
        return HeldOutLoss.of(meter.collect(self._group), self._table)

    def unigram(self, corpus: Corpus) -> HeldOutLoss:
        """What a unigram model of the training tokens loses on the same tokens (all ranks)."""
        found = unigram_loss(corpus, self._rows).components
        means = np.array([found.get(name, 0.0) for name in self._table.names])
        counts = np.zeros(len(self._table.names))
        for row in self._rows:
            used = row.masked_components[row.weights > 0]
            counts += np.bincount(used, minlength=len(counts))
        sums = torch.from_numpy(np.stack([means * counts, counts])).to(self._device)
        if self._group.size > 1:
            distributed.all_reduce(sums, group=self._group.group)
        loss, count = sums.cpu().numpy()
        return HeldOutLoss.of(ComponentLosses(loss, count), self._table)
