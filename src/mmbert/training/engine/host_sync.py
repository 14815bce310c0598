"""The only device-to-host synchronization in a training step.

A single copy transfers all results that the host needs: the gradient norm, which shows whether
gradients and loss are finite; the loss; and the ranks' requests. DeepSpeed's optimizers check the
norm themselves, two of them twice; during their step these checks use the copied value.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor


class HostSync:
    """Reads a step's scalars together with the gradient norm checked by DeepSpeed."""

    def __init__(self, *modules: ModuleType) -> None:
        """Args:
        modules: DeepSpeed modules with a global `is_invalid_grad_norm` and possibly
            `clip_tensors_by_global_norm`.
        """
        self._modules = modules
        self._scalars: Tensor | None = None
        self._norm = 0.0
        self._drop = False
        self._read: list[float] | None = None

    @contextmanager
    def patched_norm_check(self, scalars: Tensor, *, drop: bool = False) -> Iterator[None]:
        """Replace DeepSpeed's norm check and clipping during its optimizer step.

        Args:
            scalars: float64 [n], read with the norm.
            drop: let DeepSpeed take the norm for a non-finite one, so that it drops the update.
        """
        self._scalars, self._read, self._drop = scalars, None, drop
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
        """Gradient norm before clipping; infinite if a gradient is not finite."""
        return self._norm

    @property
    def finite(self) -> bool:
        """Whether the gradient norm was finite."""
        return self._norm < torch.inf

    @property
    def values(self) -> list[float]:
        """Scalars of the last step."""
        if self._read is None:
            raise RuntimeError("DeepSpeed's optimizer has not checked its gradient norm")
        return self._read

    def _is_invalid(self, norm: Tensor) -> bool:
        if self._read is None:
            assert self._scalars is not None
            own = norm.detach().to(self._scalars).reshape(1)
            numbers = torch.cat((own, self._scalars))
            value, *self._read = numbers.tolist()  # the host waits here
            # DeepSpeed returns −1 if the norm is not finite.
            self._norm = value if 0 <= value < torch.inf else torch.inf
        return self._drop or self._norm == torch.inf


def _clip(input_tensors: list[Tensor], max_norm: float, global_norm: Tensor, mpu: object) -> Tensor:
    """Clip by the global norm like DeepSpeed, but without a comparison on the host."""
    scale = (max_norm / (global_norm + 1e-6)).clamp(max=1.0)
    for tensor in input_tensors:
        tensor.detach().mul_(scale)
    return global_norm
