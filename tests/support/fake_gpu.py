"""The model's GPU path on a machine without a GPU.

A GPU's implementations are chosen, Triton launches are intercepted, and tensors are on the meta
device. This counts what is launched on the device, and measures how long the host takes for it.
"""

import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmbert.data.loading.device_batch import to_batch
from mmbert.data.loading.rows import Row
from mmbert.model.config import EncoderConfig
from mmbert.model.modernbert import MaskedLanguageModel
from mmbert.model.packed_batch import PackedBatch
from mmbert.parallel.process_grid import TensorGroup
from mmbert_kernels.cross_entropy import linear_cross_entropy
from mmbert_kernels.support import dispatch

ATTENTION_ON_A_GPU = dispatch._attention_backend
# Operators that are not views but move no data.
ALLOCATING = (
    "_unsafe_view",
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
)


@contextmanager
def fake_gpu(launch: Callable[..., Any]) -> Iterator[None]:
    """Run a GPU's code path on meta tensors.

    That is Triton kernels, PyTorch's variable-length attention, and the head's chunks and products.

    Args:
        launch: called as `launch(kernel, *arguments, **options)` instead of each Triton launch.
    """
    from triton.runtime.jit import JITFunction

    with ExitStack() as stack:
        for change in (
            mock.patch.dict(os.environ, MMBERT_KERNELS="triton"),
            mock.patch.object(dispatch, "triton_interprets", return_value=True),
            mock.patch.object(dispatch, "_attention_backend", _attention_backend),
            mock.patch.dict(
                linear_cross_entropy.CHUNK_BYTES, meta=linear_cross_entropy.CHUNK_BYTES["cuda"]
            ),
            mock.patch.object(linear_cross_entropy, "accumulate_matmul", _accumulate_matmul),
            mock.patch.object(JITFunction, "run", lambda *a, **k: launch(*a, **k)),
        ):
            stack.enter_context(change)
        if not _addmm_has_a_shape():
            library = stack.enter_context(torch.library._scoped_library("aten", "IMPL", "Meta"))
            library.impl("addmm.dtype_out", lambda *_, out, **__: out, allow_override=True)
        stack.callback(dispatch.backend.cache_clear)
        dispatch.backend.cache_clear()
        yield


def _addmm_has_a_shape() -> bool:
    """Return whether the head's product runs on meta tensors: torch 2.11 mistakes its `out_dtype`
    for `beta`."""
    total, factor = torch.empty(8, 8, device="meta"), torch.empty(8, 8, device="meta").bfloat16()
    try:
        _accumulate_matmul(total, factor, factor, kept=1)
    except TypeError:
        return False
    return True


def _attention_backend(device_type: str, dtype: torch.dtype) -> tuple[str, str]:
    """Return the choice of a GPU without flash-attn."""
    with mock.patch.object(dispatch, "is_installed", return_value=False):
        return ATTENTION_ON_A_GPU("cuda", dtype)


def _accumulate_matmul(total: Tensor, left: Tensor, right: Tensor, *, kept: int) -> None:
    """The head's function of this name, as it runs on a GPU."""
    torch.addmm(total, left, right, beta=kept, out_dtype=total.dtype, out=total)


def on_meta_device(
    config: EncoderConfig, row: Row, dtype: torch.dtype = torch.bfloat16
) -> tuple[MaskedLanguageModel, PackedBatch]:
    """Return a model and a row on the meta device."""
    with torch.device("meta"):
        model = MaskedLanguageModel(config, TensorGroup.single(), sequence_parallel=False)
    fields = {
        name: value.to("meta") if isinstance(value, Tensor) else value
        for name, value in vars(to_batch(row)).items()
    }
    return model.to(dtype), PackedBatch(**fields)


@dataclass(frozen=True)
class Operator:
    """A call of a PyTorch operator."""

    name: str
    """Name with namespace, without overload: aten::add."""
    shape: tuple[int, ...]
    """Shape of the first result."""
    bytes: int
    """Bytes read and written, at most: overwritten tensors count as read too, except `out`."""


class OperatorRecorder(TorchDispatchMode):
    """Records operators while it is entered, except views and allocations."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Operator] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        keywords = kwargs or {}
        results = function(*args, **keywords)
        if not function.is_view and function.overloadpacket.__name__ not in ALLOCATING:
            read = (args, {name: value for name, value in keywords.items() if name != "out"})
            outputs = _tensors(results)
            self.calls.append(
                Operator(
                    name=function.name().split(".")[0],
                    shape=tuple(outputs[0].shape) if outputs else (),
                    bytes=sum(
                        tensor.numel() * tensor.element_size()
                        for tensor in (*_tensors(read), *outputs)
                    ),
                )
            )
        return results


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


class PeakMemory(TorchDispatchMode):
    """Tracks the bytes of tensors created while it is entered: currently alive, and at the peak."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.largest = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        # An operator's arguments were not created by it, even if it returns a view of one.
        given = {tensor.untyped_storage()._cdata for tensor in _tensors((args, kwargs))}
        results = function(*args, **(kwargs or {}))
        for tensor in _tensors(results):
            self._count(tensor.untyped_storage(), given)
        return results

    def _count(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        key = storage._cdata
        if key in given or key in self._known:
            return
        size = storage.nbytes()

        def gone(_: object) -> None:
            del self._known[key]
            self.alive -= size

        self._known[key] = weakref.ref(storage, gone)
        self.alive += size
        self.largest = max(self.largest, self.alive)
