"""All-reduce of float32 gradients over the data ranks, overlapping the last backward pass (ZeRO 1).

DeepSpeed's bfloat16 optimizer accumulates float32 gradients in one flat buffer per parameter group
and reduces it at the end of the step, without overlap. Here the buffers are divided into buckets,
and in the step's last microbatch each bucket is reduced as soon as its gradients are final. Buckets
are reduced in the order of the backward pass, from the model's end to its beginning, which is the
same on every rank.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch.distributed as dist
from torch import Tensor, nn

from mmbert.parallel.process_grid import DataGroup


@dataclass
class _Bucket:
    """A range of a flat gradient buffer."""

    gradients: Tensor
    size: int
    """Number of parameters in the bucket."""
    first: int
    """Forward-order position of its first parameter, whose gradient becomes final last."""
    pending: int = 0
    """Number of gradients that are not final yet."""
    work: dist.Work | None = field(default=None, repr=False)


class OverlappedGradReducer:
    """Sums flat gradient buffers over a data-parallel group, bucket by bucket."""

    def __init__(
        self,
        buffers: Sequence[tuple[Tensor, Sequence[nn.Parameter]]],
        group: DataGroup,
        *,
        order: Sequence[nn.Parameter],
        bucket_elements: int,
    ) -> None:
        """Divide the buffers into buckets and register a hook on every parameter.

        Register hooks that accumulate gradients into the buffers first: hooks run in that order.

        Args:
            buffers: flat gradient buffers, each with its parameters in order (padding at the end).
            order: all parameters in the order of the forward pass.
            bucket_elements: minimum size of a bucket.
        """
        self._position = {parameter: place for place, parameter in enumerate(order)}
        self._group, self._buckets = group, list[_Bucket]()
        self._bucket_of = dict[nn.Parameter, _Bucket]()
        for flat, parameters in buffers:
            self._add_buckets(flat, list(parameters), bucket_elements)
        self._buckets.sort(key=lambda bucket: bucket.first, reverse=True)
        self._in_last_backward, self._next = False, 0
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(self._grad_ready)
            for parameter in self._bucket_of
        ]

    def start_backward(self) -> None:
        """Reduce buckets as they become ready in the next backward pass, the step's last."""
        self._in_last_backward = self._group.size > 1
        self._next = 0
        for bucket in self._buckets:
            bucket.pending, bucket.work = bucket.size, None

    def finish(self) -> None:
        """Reduce the remaining buckets and wait for all; on a GPU only the device waits."""
        if self._group.size == 1:
            return
        if not self._in_last_backward:
            self.start_backward()
        while self._next < len(self._buckets):
            self._launch()
        for bucket in self._buckets:
            assert bucket.work is not None
            bucket.work.wait()
        self._in_last_backward = False

    def close(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()

    def _add_buckets(
        self, flat: Tensor, parameters: list[nn.Parameter], bucket_elements: int
    ) -> None:
        """Add buckets of whole parameters, from the end of the buffer (first gradients)."""
        stop = flat.numel()
        starts, offset = [], 0
        for parameter in parameters:
            starts.append(offset)
            offset += parameter.numel()
        parameters_in_bucket: list[nn.Parameter] = []
        for parameter, start in zip(reversed(parameters), reversed(starts), strict=True):
            parameters_in_bucket.append(parameter)
            if stop - start >= bucket_elements or start == 0:
                first = min(self._position[parameter] for parameter in parameters_in_bucket)
                bucket = _Bucket(flat[start:stop], len(parameters_in_bucket), first)
                self._buckets.append(bucket)
                self._bucket_of.update(dict.fromkeys(parameters_in_bucket, bucket))
                parameters_in_bucket, stop = [], start

    def _grad_ready(self, parameter: nn.Parameter) -> None:
        if not self._in_last_backward:
            return
        self._bucket_of[parameter].pending -= 1
        while self._next < len(self._buckets) and self._buckets[self._next].pending == 0:
            self._launch()

    def _launch(self) -> None:
        bucket = self._buckets[self._next]
        bucket.work = dist.all_reduce(bucket.gradients, group=self._group.group, async_op=True)
        self._next += 1
