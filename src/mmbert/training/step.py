"""One optimiser step, and the loss that comes out of it.

The step's loss is the mean over all masked tokens of the global batch: every microbatch is scaled
by one over their number, which is known before the first backward pass because the masks are drawn
with the rows. A loss that is not finite makes its gradients not finite, so that the engine's one
check sees both, on all ranks alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor, nn

from mmbert.data.rows import Row
from mmbert.recipe import RotaryBases
from mmbert.training.engine import Engine, OptimizerReport
from mmbert.training.inputs import inputs_on
from mmbert.training.losses import LossMeter
from mmbert.training.timing import TimeSplit


@dataclass(frozen=True)
class StepOutcome:
    """What a step did; `loss` in nats per masked token of the global batch."""

    loss: float
    report: OptimizerReport
    bad_rows: tuple[int, ...]
    """Of this rank's rows, those whose own loss is not finite; looked up only when the step was
    not."""


class StepRunner:
    """Forward, backward and the optimiser's step, with the clock running."""

    def __init__(
        self, engine: Engine, *, dropout_seed: int, meter: LossMeter, clock: TimeSplit
    ) -> None:
        self._engine, self._seed, self._meter, self._clock = engine, dropout_seed, meter, clock
        self._forward_end: Any = None
        engine.module.register_forward_hook(self._after_forward)

    def _after_forward(self, module: nn.Module, inputs: Any, losses: Tensor) -> Tensor | None:
        if not torch.is_grad_enabled():
            return None
        self._forward_end = self._clock.mark()
        # Exactly 1, and a gradient of exactly 1 times the old one, unless a loss is infinite or not
        # a number; then every gradient becomes NaN.
        return losses * (1.0 + 0.0 * losses.detach().sum())

    def run(
        self,
        rows: Sequence[Row],
        *,
        masked_tokens: float,
        rotary_bases: RotaryBases,
        dropout: float,
        learning_rate: float,
        weight_decay: float,
    ) -> StepOutcome:
        """Train on this rank's `rows` of one step.

        Args:
            masked_tokens: masked tokens of the step's rows on all data ranks.
        """
        device = self._engine.device
        passes: list[tuple[Tensor, Tensor, Tensor]] = []
        inputs = inputs_on(device, rows)
        for number in range(len(rows)):
            with self._clock.host("data"):
                present = next(inputs)
            batch, components = present.batch, present.components
            begin = self._clock.mark()
            losses = self._engine.forward_backward(
                batch,
                rotary_bases=rotary_bases,
                dropout_seed=self._seed,
                dropout=dropout,
                loss_scale=1.0 / masked_tokens,
                last=number == len(rows) - 1,
            )
            self._clock.between("forward", begin, self._forward_end)
            self._clock.between("backward", self._forward_end, self._clock.mark())
            passes.append((losses, batch.weights, components))
        row_losses = torch.stack([losses.double().sum() for losses, _, _ in passes])
        total = row_losses.sum(dim=0, keepdim=True)
        if self._engine.grid.data.size > 1:
            distributed.all_reduce(total, group=self._engine.grid.data.group)
        with self._clock.device("optimizer"):
            report = self._engine.optimizer_step(learning_rate, weight_decay, total)
        bad: tuple[int, ...] = ()
        if report.finite:
            for losses, weights, components in passes:
                self._meter.add(losses, weights, components)
        else:
            finite = torch.isfinite(row_losses).tolist()
            bad = tuple(row.index for row, good in zip(rows, finite, strict=True) if not good)
        return StepOutcome(report.figures[0] / masked_tokens, report, bad)
