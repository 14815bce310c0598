"""The one moment of a step at which the host waits for the device.

All that the host must know of a step travels in one copy: the gradient's norm, and with it whether
gradients and loss are finite, the loss, and whether some rank wants to stop or save before the next
step. DeepSpeed's optimisers ask whether the norm is finite by themselves, two of them twice; here
their question is answered from the copy.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor


class HostSync:
    """Reads a step's scalars together with the norm that DeepSpeed asks about."""

    def __init__(self, *modules: ModuleType) -> None:
        """`modules`: DeepSpeed's, in which `is_invalid_grad_norm` and, in some,
        `clip_tensors_by_global_norm` are looked up."""
        self._modules = modules
        self._scalars: Tensor | None = None
        self._norm = 0.0
        self._read: list[float] | None = None

    @contextmanager
    def patched_norm_check(self, scalars: Tensor) -> Iterator[None]:
        """Answer DeepSpeed's norm checks while its optimizer steps.

        `scalars` (float64 [n]) are read with the norm.
        """
        self._scalars, self._read = scalars, None
        own = {"is_invalid_grad_norm": self._is_invalid, "clip_tensors_by_global_norm": _clip}
        places = [
            (module, name) for module in self._modules for name in own if name in vars(module)
        ]
        theirs = [getattr(module, name) for module, name in places]
        for module, name in places:
            setattr(module, name, own[name])
        try:
            yield
        finally:
            for (module, name), function in zip(places, theirs, strict=True):
                setattr(module, name, function)

    @property
    def norm(self) -> float:
        """The gradient's norm before clipping; infinite if a gradient is not finite."""
        return self._norm

    @property
    def values(self) -> list[float]:
        """The scalars of the step that has been taken."""
        if self._read is None:
            raise RuntimeError("DeepSpeed's optimiser has not asked whether its norm is finite")
        return self._read

    def _is_invalid(self, norm: Tensor) -> bool:
        if self._read is None:
            assert self._scalars is not None
            own = norm.detach().to(self._scalars).reshape(1)
            numbers = torch.cat((own, self._scalars))
            value, *self._read = numbers.tolist()  # the host waits here
            # DeepSpeed says −1 for what is not finite.
            self._norm = value if 0 <= value < torch.inf else torch.inf
        return self._norm == torch.inf


def _clip(input_tensors: list[Tensor], max_norm: float, global_norm: Tensor, mpu: object) -> Tensor:
    """DeepSpeed's clipping by a norm, without asking on the host whether there is a need."""
    scale = (max_norm / (global_norm + 1e-6)).clamp(max=1.0)
    for tensor in input_tensors:
        tensor.detach().mul_(scale)
    return global_norm
