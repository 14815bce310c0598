"""StableAdamW on a flat partition; a tensor's update RMS is taken over all ranks that hold it.

ZeRO flattens the parameters and hands every data rank one contiguous part; tensor parallelism has
split the parameters before that. The update's RMS, by which StableAdamW divides a tensor's learning
rate, is nevertheless that of the whole tensor: each rank sums over its segments of every tensor,
one small all-reduce adds the sums up, and the step is the same as on one device.

Formula (Wortsman et al. 2023 as torch-optimi 0.2.1 implements it, which mmBERT used), for a tensor
p with gradient g at step t = 1, 2, …, scheduled rate lr and peak rate lr_max:

    b1 = beta1 · (1 − beta1^(t−1)) / (1 − beta1^t)      b2 likewise: bias correction folded in
    m = b1 · m + (1 − b1) · g                           v = b2 · v + (1 − b2) · g²
    rms = sqrt(mean over the tensor of g² / max(v, eps²))
    rate = lr / max(1, rms)
    p *= 1 − weight_decay · rate / lr_max               (not for norms and biases)
    p -= rate · m / (sqrt(v) + eps)
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, overload

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Segment:
    """The part of one tensor that lies at [start, start + length) of this rank's flat partition."""

    tensor: int
    """The tensor's number, the same on every rank."""
    start: int
    length: int
    decays: bool
    """Whether weight decay applies to it."""


@dataclass(frozen=True)
class FlatLayout:
    """What this rank's flat partition holds, and how its sums become sums over whole tensors."""

    segments: tuple[Segment, ...]
    full_sizes: Tensor
    """float32 [tensors]: elements of each whole tensor."""
    counted: Tensor
    """float32 [tensors], 1 or 0: whether this rank's elements enter the sum. A tensor that every
    tensor-parallel rank holds is counted on the first of them only."""
    group: dist.ProcessGroup | None
    """The ranks that together hold the model (data × tensor); None: the default group."""


def no_decay(name: str, dimensions: int) -> bool:
    """Whether a parameter is spared weight decay: norms and biases are, embeddings are not."""
    return dimensions <= 1 or name.endswith(".bias")


def debiased_beta(beta: float, step: int) -> float:
    """`beta` with Adam's bias correction folded in, at step 1, 2, …; 0 at the first."""
    return float(beta * (1 - beta ** (step - 1)) / (1 - beta**step))


class StableAdamW(torch.optim.Optimizer):
    """StableAdamW for one flat float32 partition whose segments `use_layout` describes.

    It is given the model's parameters, as DeepSpeed wants a client optimizer to be; ZeRO then puts
    its flat partition in their place, and the engine says what lies where. All parameters are in
    one group, so that ZeRO makes one partition, one call of `step` and thus one all-reduce.
    """

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
        self._layout: FlatLayout | None = None
        self.steps = 0
        """Steps taken; part of a checkpoint."""
        self.rms: Tensor | None = None
        """float32 [tensors]: the update's RMS of every tensor at the last step."""

    def use_layout(self, flat: Tensor, layout: FlatLayout) -> None:
        """Say what lies where in `flat` (float32, one dimension) and make its states, zero."""
        self._layout = layout
        self.state[flat] = {
            "exp_avg": torch.zeros_like(flat, requires_grad=False),
            "exp_avg_sq": torch.zeros_like(flat, requires_grad=False),
        }

    @property
    def clipped_share(self) -> Tensor:
        """float32 scalar on the device: the share of tensors whose rate the last step divided."""
        if self.rms is None:
            raise RuntimeError("StableAdamW has not taken a step yet")
        return (self.rms > 1).float().mean()

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step from `flat.grad`. Nothing in it waits for the device."""
        if closure is not None:
            raise NotImplementedError("StableAdamW takes no closure")
        flats = [flat for group in self.param_groups for flat in group["params"]]
        if self._layout is None or len(flats) != 1 or flats[0].grad is None:
            raise RuntimeError(
                "StableAdamW steps one flat partition with a gradient and a layout; "
                f"it has {len(flats)} partitions and layout {self._layout is not None}"
            )
        flat, group, layout = flats[0], self.param_groups[0], self._layout
        self.steps += 1
        sums = self._update_moments(flat, group, layout)
        self.rms = (self.sum_over_ranks(sums, layout) / layout.full_sizes).sqrt()
        rates = group["lr"] / self.rms.clamp(min=1)
        self._apply(flat, group, layout, rates)
        return None

    def _update_moments(self, flat: Tensor, group: dict[str, Any], layout: FlatLayout) -> Tensor:
        """Update both moments; float32 [tensors]: this rank's sums of g² / max(v, eps²)."""
        beta1, beta2 = (debiased_beta(beta, self.steps) for beta in group["betas"])
        states, gradients = self.state[flat], flat.grad
        assert gradients is not None
        sums = torch.zeros_like(layout.full_sizes)
        for segment in layout.segments:
            piece = slice(segment.start, segment.start + segment.length)
            gradient = gradients[piece]
            mean, square = states["exp_avg"][piece], states["exp_avg_sq"][piece]
            mean.mul_(beta1).add_(gradient, alpha=1 - beta1)
            square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            ratio = square.clamp(min=group["eps"] ** 2).reciprocal_().mul_(gradient).mul_(gradient)
            sums[segment.tensor] += ratio.sum()
        return sums

    @staticmethod
    def sum_over_ranks(sums: Tensor, layout: FlatLayout) -> Tensor:
        """float32 [tensors]: sums over whole tensors, the same on all ranks; the one all-reduce."""
        sums = sums * layout.counted
        dist.all_reduce(sums, group=layout.group)
        return sums

    def _apply(
        self, flat: Tensor, group: dict[str, Any], layout: FlatLayout, rates: Tensor
    ) -> None:
        """Decay and move the weights; `rates` float32 [tensors] are the clipped learning rates."""
        states = self.state[flat]
        decay = 1 - rates * (group["weight_decay"] / group["lr_max"])
        for segment in layout.segments:
            piece = slice(segment.start, segment.start + segment.length)
            weight = flat[piece]
            if segment.decays:
                weight.mul_(decay[segment.tensor])
            update = states["exp_avg_sq"][piece].sqrt().add_(group["eps"])
            torch.div(states["exp_avg"][piece], update, out=update)
            weight.sub_(update.mul_(rates[segment.tensor]))
