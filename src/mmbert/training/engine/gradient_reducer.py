"""Reducing float32 gradients over the data ranks while the last backward pass still runs.

DeepSpeed's bfloat16 optimiser with float32 accumulation (ZeRO 1) keeps the sums of all microbatches
in one flat buffer and reduces it when the step ends, with nothing left to hide it behind. Here the
buffer is cut into buckets, and in the step's last microbatch each bucket sets out as soon as the
gradients in it are final. Buckets set out in one fixed order, the same on every rank: that of
the backward pass, from the model's end to its beginning.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch.distributed as dist
from torch import Tensor, nn

from mmbert.parallel.process_grid import DataGroup


@dataclass
class _Bucket:
    """A range of a flat buffer and the parameters whose gradients lie in it."""

    gradients: Tensor
    size: int
    first: int
    """The place in the model of the parameter that comes first there: the last to be final."""
    pending: int = 0
    work: dist.Work | None = field(default=None, repr=False)


class OverlappedGradReducer:
    """Sums flat gradient buffers over `group`, bucket by bucket."""

    def __init__(
        self,
        buffers: Sequence[tuple[Tensor, Sequence[nn.Parameter]]],
        group: DataGroup,
        *,
        order: Sequence[nn.Parameter],
        bucket_elements: int,
    ) -> None:
        """`buffers`: each flat buffer with the parameters whose gradients follow one another in it
        (padding may come last); `order`: all parameters as the model goes through them. What adds
        the gradients must have hooked the parameters before.
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
        """The next backward pass is the step's last one: buckets may set out as they fill."""
        self._in_last_backward = self._group.size > 1
        self._next = 0
        for bucket in self._buckets:
            bucket.pending, bucket.work = bucket.size, None

    def finish(self) -> None:
        """All buffers hold the sums over the group; sends what has not set out yet, and waits (on
        a GPU, the device does)."""
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
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()

    def _add_buckets(
        self, flat: Tensor, parameters: list[nn.Parameter], bucket_elements: int
    ) -> None:
        """Buckets of whole parameters, the buffer's end first: gradients come from the end."""
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
