"""Counts device-to-host synchronizations on a machine without a GPU.

Results of a device reach the host, or determine shapes, only through a few operations, the same on
every device. They can be counted on a CPU or on fake tensors. If DeepSpeed is loaded, calls of its
accelerator's `synchronize`, which does nothing on a CPU, are counted too.
"""

import sys
import traceback
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Operators that return a number to the host or have a data-dependent shape.
SYNCING_OPERATORS = (
    "_local_scalar_dense",
    "allclose",
    "bincount",
    "equal",
    "is_nonzero",
    "masked_select",
    "nonzero",
    "nonzero_numpy",
    "unique_consecutive",
    "unique_dim",
    "_unique",
    "_unique2",
)
# Methods that read a CPU tensor's memory without an operator; a GPU tensor is copied first.
SYNCING_METHODS = (Tensor.tolist, Tensor.numpy, Tensor.__array__)
# Folder of the CPU implementations, which a GPU does not run.
CPU_IMPLEMENTATIONS = "/kernels/mmbert_kernels/"


class HostSyncCounter:
    """Counts synchronizations while it is entered; `found` describes each with its location."""

    def __init__(self, *, ignore: tuple[str, ...] = ()) -> None:
        """`ignore`: parts of file names; calls from these files do not count."""
        self.found: list[str] = []
        self._ignore = ignore
        self._open = ExitStack()

    def __enter__(self) -> "HostSyncCounter":
        self._open.enter_context(_Operators(self))
        self._open.enter_context(_Methods(self))
        if "deepspeed" in sys.modules:
            accelerator = sys.modules["deepspeed"].accelerator.get_accelerator()
            self._open.enter_context(mock.patch.object(accelerator, "synchronize", self._stop))
        return self

    def __exit__(self, *exception: Any) -> None:
        self._open.close()

    def _stop(self, device_index: int | None = None) -> None:
        self.note("synchronize")

    def note(self, what: str) -> None:
        stack = traceback.extract_stack()[:-2]
        if any(part in frame.filename for frame in stack for part in self._ignore):
            return
        places = [f for f in stack if "/torch/" not in f.filename and __file__ != f.filename]
        self.found.append(f"{what} in {places[-1].filename}:{places[-1].lineno}")


class _Operators(TorchDispatchMode):
    def __init__(self, owner: HostSyncCounter) -> None:
        super().__init__()
        self._owner = owner

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.overloadpacket.__name__
        if name in SYNCING_OPERATORS or _indexes_by_mask(name, args):
            self._owner.note(name)
        elif name == "repeat_interleave" and (kwargs or {}).get("output_size") is None:
            self._owner.note("repeat_interleave without output_size")
        out = function(*args, **(kwargs or {}))
        if _copies_and_waits(name, args, kwargs or {}, out):
            self._owner.note(f"{name} between devices")
        return out


class _Methods(TorchFunctionMode):
    def __init__(self, owner: HostSyncCounter) -> None:
        super().__init__()
        self._owner = owner

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function in SYNCING_METHODS:
            self._owner.note(function.__name__)
        return function(*args, **(kwargs or {}))


def _indexes_by_mask(name: str, args: Any) -> bool:
    """Return whether an index is a boolean tensor, so that the shape depends on its values."""
    if name not in ("index", "index_put", "index_put_", "_index_put_impl_"):
        return False
    indices = [index for index in args[1] if isinstance(index, Tensor)]
    return any(index.dtype in (torch.bool, torch.uint8) for index in indices)


def _copies_and_waits(name: str, args: Any, kwargs: dict[str, Any], out: Any) -> bool:
    """Return whether this is a blocking copy between devices."""
    if name not in ("_to_copy", "copy_") or not isinstance(out, Tensor):
        return False
    source = args[1] if name == "copy_" else args[0]
    if source.device.type == out.device.type:
        return False
    non_blocking = kwargs.get("non_blocking", args[2] if name == "copy_" and len(args) > 2 else 0)
    return not (non_blocking and out.device.type != "cpu")
