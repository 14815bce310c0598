"""StableAdamW on a flat partition, with each tensor's update RMS computed over all ranks.

ZeRO flattens the parameters, already sharded by tensor parallelism, and gives every data rank one
contiguous partition. StableAdamW divides a tensor's learning rate by the update RMS of the whole
tensor. Each rank therefore sums over its span of every tensor, and one small all-reduce adds the
sums, so that the step is the same as on one device.

Formula (Wortsman et al. 2023 as torch-optimi 0.2.1 implements it, which mmBERT used), for a tensor
p with gradient g at step t = 1, 2, …, scheduled learning rate lr and its peak lr_max:

    b1 = beta1 · (1 − beta1^(t−1)) / (1 − beta1^t)      b2 likewise: bias correction folded in
    m = b1 · m + (1 − b1) · g                           v = b2 · v + (1 − b2) · g²
    rms = sqrt(mean over the tensor of g² / max(v, eps²))
    rate = lr / max(1, rms)
    p *= 1 − weight_decay · rate / lr_max               (not for norms and biases)
    p -= factor · rate · m / (sqrt(v) + eps)            factor: the group's rate over lr_max
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import overload

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmbert.parallel.zero_fragment import RowState
from mmbert.recipe import OptimizerSettings
from mmbert.schedule import StepSettings
from mmbert.training.engine.partitions import MOMENTS, MOMENTS_OF_ALL, PartitionLayout
from mmbert_kernels import TensorSpans, stable_adamw_apply, stable_adamw_sums, update_rms


class StableAdamW(torch.optim.Optimizer):
    """A `ClientOptimizer` for one flat float32 partition.

    All parameters form one group, so that ZeRO creates a single partition and a step needs a single
    all-reduce.
    """

    state_names = MOMENTS_OF_ALL

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        *,
        learning_rate: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        defaults = {
            "lr": learning_rate,
            "lr_max": learning_rate,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
        }
        super().__init__(list(parameters), defaults)
        self.layout: PartitionLayout | None = None
        self.exp_avg_sq_spans: TensorSpans | None = None
        """Positions of the layout's tensors in `exp_avg_sq`, if not those in the partition."""
        self.steps = 0
        """Steps taken, including those of earlier runs."""
        self.rms: Tensor | None = None
        """float64 [tensors]: update RMS of every tensor in the last step."""

    @classmethod
    def build(
        cls, model: nn.Module, settings: OptimizerSettings, device: torch.device, dtype: torch.dtype
    ) -> "StableAdamW":
        """Create the optimizer over the model's parameters."""
        return cls(
            model.parameters(),
            learning_rate=settings.learning_rate,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
        )

    def states_of(self, partition: Tensor, span: slice) -> dict[str, Tensor]:
        """Return the states by name of a parameter's span in a partition, as views."""
        return {name: self.state[partition][name][span] for name in MOMENTS}

    def row_states(self) -> Iterable[RowState]:
        """Return no states of rows."""
        return ()

    def attach(self, partitions: Sequence[Tensor], layouts: Sequence[PartitionLayout]) -> None:
        """Set the layout of the only partition and create its zero states; collective.

        Raises:
            RuntimeError: the spans of all ranks do not cover every tensor exactly once.
        """
        (flat,), (layout,) = partitions, layouts
        self.layout = layout
        squares = len(flat) if self.exp_avg_sq_spans is None else self.exp_avg_sq_spans.size
        self.state[flat] = {
            "exp_avg": torch.zeros_like(flat, requires_grad=False),
            "exp_avg_sq": flat.new_zeros(squares, requires_grad=False),
        }
        starts, ends = layout.spans.starts, layout.spans.ends
        lengths = [(0, end - start) for start, end in zip(starts, ends, strict=True)]
        sums = torch.tensor(lengths, dtype=torch.float64, device=flat.device).view(-1, 2)
        held = self.sum_over_ranks(sums, layout)[:, 1]
        if not torch.equal(held, layout.full_sizes):
            wrong = int((held != layout.full_sizes).nonzero()[0])
            raise RuntimeError(
                f"the ranks hold {int(held[wrong])} elements of tensor {wrong}, "
                f"which has {int(layout.full_sizes[wrong])}"
            )

    def set_step(self, settings: StepSettings) -> None:
        """Set the learning rate and weight decay of the next step."""
        for group in self.param_groups:
            group["lr"], group["weight_decay"] = settings.learning_rate, settings.weight_decay

    def metrics(self) -> Mapping[str, Tensor]:
        """Return the fraction of tensors with a clipped update in the last step (float32 scalar on
        the device)."""
        if self.rms is None:
            raise RuntimeError("StableAdamW has not taken a step yet")
        return {"update_rms_clipped_share": (self.rms > 1).float().mean()}

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update the partition with its gradient, without synchronizing with the device."""
        if closure is not None:
            raise NotImplementedError(f"{type(self).__name__} does not support closures")
        self.update()
        return None

    def update(self) -> None:
        """Take a step of the tensors of the layout; called by `step`, without autograd."""
        flat, gradient, layout = self.partition()
        group, states = self.param_groups[0], self.state[flat]
        self.steps += 1
        sums = stable_adamw_sums(
            gradient,
            states["exp_avg_sq"],
            layout.spans,
            betas=group["betas"],
            step=self.steps,
            eps=group["eps"],
            exp_avg_sq_spans=self.exp_avg_sq_spans,
        )
        totals = self.sum_over_ranks(sums, layout)
        self.rms = update_rms(totals)
        stable_adamw_apply(
            flat.detach(),
            gradient,
            states["exp_avg"],
            states["exp_avg_sq"],
            layout.spans,
            totals[layout.tensors],
            betas=group["betas"],
            step=self.steps,
            learning_rate=group["lr"],
            peak_learning_rate=group["lr_max"],
            rate_factors=layout.rate_factors,
            weight_decay=layout.decays * group["weight_decay"],
            eps=group["eps"],
            exp_avg_sq_spans=self.exp_avg_sq_spans,
        )

    def partition(self) -> tuple[Tensor, Tensor, PartitionLayout]:
        """Return the only partition, its gradient and its layout."""
        flats = [flat for group in self.param_groups for flat in group["params"]]
        if self.layout is None or len(flats) != 1 or flats[0].grad is None:
            raise RuntimeError(
                f"{type(self).__name__} steps one flat partition with a gradient and a layout; "
                f"it has {len(flats)} partitions and layout {self.layout is not None}"
            )
        return flats[0], flats[0].grad, self.layout

    @staticmethod
    def sum_over_ranks(sums: Tensor, layout: PartitionLayout) -> Tensor:
        """Sum float64 [spans, 2] by tensor over all ranks, to [tensors, 2], in one all-reduce."""
        totals = sums.new_zeros((len(layout.full_sizes), 2))
        totals.index_add_(0, layout.tensors, sums)
        totals *= layout.owned.unsqueeze(1)
        dist.all_reduce(totals)
        return totals
