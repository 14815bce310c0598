"""Time spent in collectives of the model, ZeRO and the training loop.

Every collective of torch.distributed, including DeepSpeed's, calls a method of the process group
and, if asynchronous, `Work.wait`. Both are wrapped during a run. On a CPU the wrapped calls block,
and the host's clock measures them. On a GPU they only queue work, and events around them measure
the time for which they block the current stream. On the compute stream this is the exposed
communication. Collectives that DeepSpeed overlaps on a side stream (under ZeRO 2 and 3) are counted
separately.
"""

from functools import wraps
from typing import Any

from torch._C._distributed_c10d import ProcessGroup, Work

from mmbert.training.metrics.step_timer import COMMUNICATION as EXPOSED
from mmbert.training.metrics.step_timer import OVERLAPPED_COMMUNICATION as OVERLAPPED
from mmbert.training.metrics.step_timer import StepTimer

# Names of the collective methods in torch 2.11 to 2.15.
COLLECTIVES = (
    "allreduce",
    "allreduce_coalesced",
    "allgather",
    "allgather_coalesced",
    "allgather_into_tensor_coalesced",
    "all_gather_single",
    "all_gather_single_coalesced",
    "_allgather_base",
    "reduce_scatter",
    "reduce_scatter_single",
    "reduce_scatter_single_coalesced",
    "reduce_scatter_tensor_coalesced",
    "_reduce_scatter_base",
    "broadcast",
    "reduce",
    "gather",
    "gather_single",
    "gather_into_tensor",
    "scatter",
    "alltoall",
    "alltoall_base",
    "all_to_all_single",
    "barrier",
    "_end_coalescing",
)


class CollectiveTimer:
    """Adds the time of every collective to a `StepTimer` until `close()`; one per process."""

    def __init__(self, time: StepTimer) -> None:
        self._time = time
        self._originals: list[tuple[type, str, Any]] = []
        for name in COLLECTIVES:
            if name in ProcessGroup.__dict__:
                self._wrap(ProcessGroup, name)
        self._wrap(Work, "wait")

    def _wrap(self, owner: type, name: str) -> None:
        original = getattr(owner, name)
        # The descriptor, unlike the function that `getattr` returns, binds to the object.
        descriptor = owner.__dict__[name]

        @wraps(original)
        def timed(*arguments: Any, **keywords: Any) -> Any:
            with self._time.device(OVERLAPPED if self._time.on_side_stream() else EXPOSED):
                return original(*arguments, **keywords)

        self._originals.append((owner, name, descriptor))
        setattr(owner, name, timed)

    def close(self) -> None:
        """Restore the original methods."""
        for owner, name, descriptor in self._originals:
            setattr(owner, name, descriptor)
        self._originals.clear()
