"""One optimizer step over several microbatches, and its loss.

The loss of a step is the mean over all masked tokens of the global batch. Each microbatch is scaled
by the inverse of their number, which is known before the first backward pass because masks are
drawn with the rows. The number is summed and kept on the device, so that the host does not wait. A
non-finite loss makes its gradients non-finite, so that a single check in the engine covers both, on
all ranks.

Loss, masked tokens and the ranks' requests are all-reduced once, after the last microbatch has been
queued; the host reads them with the gradient norm.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor, nn

from mmbert.data.loading.device_inputs import prefetch_to_device
from mmbert.data.loading.rows import Row
from mmbert.schedule import StepSettings
from mmbert.training.engine.engine import Engine, OptimizerReport
from mmbert.training.engine.step_scalars import StepScalars, to_device
from mmbert.training.fault_tolerance.loop_requests import LoopRequests, RequestCounts
from mmbert.training.metrics.loss_meter import LossMeter
from mmbert.training.metrics.step_timer import StepTimer


@dataclass(frozen=True)
class StepOutcome:
    """Result of a training step."""

    loss: float
    """Mean loss over the masked tokens of the global batch, in nats."""
    report: OptimizerReport
    row_losses: Tensor
    """Loss of each of this rank's rows, summed over its masked tokens; float64 [rows] on the
    device, so that only a step that is looked at closely waits for it."""
    non_finite_rows: tuple[int, ...]
    """Indices of this rank's rows with a non-finite loss; determined only for a non-finite step."""
    requests: LoopRequests
    """This rank's requests when the step was queued."""
    request_counts: RequestCounts


class StepRunner:
    """Runs training steps and times their parts."""

    def __init__(
        self, engine: Engine, *, dropout_seed: int, meter: LossMeter, step_timer: StepTimer
    ) -> None:
        self._engine, self._seed = engine, dropout_seed
        self._meter, self._step_timer = meter, step_timer
        self._forward_end: Any = None
        engine.module.register_forward_hook(self._after_forward)

    def _after_forward(self, module: nn.Module, inputs: Any, losses: Tensor) -> Tensor | None:
        if not torch.is_grad_enabled():
            return None
        self._forward_end = self._step_timer.mark()
        self._step_timer.enter_backward()
        # The factor is exactly 1, or NaN if a loss is non-finite; then every gradient is NaN.
        return losses * (1.0 + 0.0 * losses.detach().sum())

    def run(
        self,
        rows: Sequence[Row],
        settings: StepSettings,
        *,
        pending_requests: Callable[[], LoopRequests],
        apply_update: bool = True,
    ) -> StepOutcome:
        """Train on this rank's `rows` of one step.

        Args:
            pending_requests: called after the last microbatch, just before the scalars are summed.
            apply_update: False only measures: weights, optimizer and meter keep every bit.
        """
        masked_tokens = sum(float(row.weights.sum()) for row in rows)
        loss_scale = self._inverse_masked_tokens(masked_tokens)
        passes: list[tuple[Tensor, Tensor, Tensor]] = []
        inputs = prefetch_to_device(self._engine.device, rows)
        for number in range(len(rows)):
            with self._step_timer.host("data"):
                present = next(inputs)
            batch, components = present.batch, present.components
            begin = self._step_timer.mark()
            losses = self._engine.forward_backward(
                batch,
                settings,
                dropout_seed=self._seed,
                loss_scale=loss_scale,
                last=number == len(rows) - 1,
            )
            self._step_timer.add("forward", begin, self._forward_end)
            self._step_timer.add("backward", self._forward_end, self._step_timer.mark())
            self._step_timer.leave_backward()
            passes.append((losses, batch.weights, components))
        self._step_timer.end_own_work()
        row_losses = torch.stack([losses.double().sum() for losses, _, _ in passes])
        requests = pending_requests()
        scalars = self._step_scalars(row_losses.sum(), masked_tokens, requests)
        with self._step_timer.device("optimizer"):
            report = self._engine.optimizer_step(settings, scalars, apply_update=apply_update)
        self._step_timer.end_step(len(rows))
        bad: tuple[int, ...] = ()
        if report.finite and apply_update:
            for losses, weights, components in passes:
                self._meter.add(losses, weights, components)
        elif not report.finite:
            finite = torch.isfinite(row_losses).tolist()
            bad = tuple(row.index for row, good in zip(rows, finite, strict=True) if not good)
        sums = report.step_scalars
        return StepOutcome(
            loss=sums.loss / sums.masked_tokens,
            report=report,
            row_losses=row_losses,
            non_finite_rows=bad,
            requests=requests,
            request_counts=RequestCounts(sums.stop, sums.save, sums.failure),
        )

    def _inverse_masked_tokens(self, own: float) -> Tensor:
        """Return 1 / (masked tokens of all data ranks), float64 []; `own`: those of this rank."""
        data = self._engine.grid.data
        count = to_device([own], self._engine.device).squeeze(0)
        if data.size > 1:
            distributed.all_reduce(count, group=data.group)
        return 1.0 / count

    def _step_scalars(self, loss: Tensor, masked_tokens: float, requests: LoopRequests) -> Tensor:
        """Return the `StepScalars` of the step on the device, summed over all ranks."""
        grid = self._engine.grid
        if grid.tensor.rank != 0:  # counted on the first rank of the tensor group
            loss, masked_tokens = torch.zeros_like(loss), 0.0
        scalars = StepScalars.to_tensor(
            loss=loss, masked_tokens=masked_tokens, **requests.flags()._asdict()
        )
        if grid.world_size > 1:
            distributed.all_reduce(scalars)
        return scalars
