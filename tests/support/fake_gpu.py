"""The model's path on a GPU, run on a machine that has none: a GPU's implementations are chosen,
something else takes the place of Triton's launches, and tensors have shapes but no content.

What PyTorch is asked for can then be counted, and the time that asking takes be measured.
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
# OperatorRecorder that are no views and move nothing either.
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
    """On meta tensors run what a GPU runs: Triton's kernels, PyTorch's variable-length attention,
    the head's chunks and products. `launch(kernel, *arguments, **options)` for each launch."""
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
    """Whether the head's product runs on tensors without content: torch 2.11 takes its `out_dtype`
    for `beta` there."""
    total, factor = torch.empty(8, 8, device="meta"), torch.empty(8, 8, device="meta").bfloat16()
    try:
        _accumulate_matmul(total, factor, factor, kept=1)
    except TypeError:
        return False
    return True


def _attention_backend(device_type: str, dtype: torch.dtype) -> tuple[str, str]:
    """A GPU's without flash-attn."""
    with mock.patch.object(dispatch, "is_installed", return_value=False):
        return ATTENTION_ON_A_GPU("cuda", dtype)


def _accumulate_matmul(total: Tensor, left: Tensor, right: Tensor, *, kept: int) -> None:
    """The head's function of this name as a GPU has it."""
    torch.addmm(total, left, right, beta=kept, out_dtype=total.dtype, out=total)


def on_meta_device(
    config: EncoderConfig, row: Row, dtype: torch.dtype = torch.bfloat16
) -> tuple[MaskedLanguageModel, PackedBatch]:
    """A model and a row as meta tensors."""
    with torch.device("meta"):
        model = MaskedLanguageModel(config, TensorGroup.single(), sequence_parallel=False)
    fields = {
        name: value.to("meta") if isinstance(value, Tensor) else value
        for name, value in vars(to_batch(row)).items()
    }
    return model.to(dtype), PackedBatch(**fields)


@dataclass(frozen=True)
class Operator:
    """A call of one of PyTorch's operators."""

    name: str
    """With its namespace and without its overload: aten::add."""
    shape: tuple[int, ...]
    """Of its first result."""
    bytes: int
    """Read and written, at most: what it overwrites counts as read too, except `out`."""


class OperatorRecorder(TorchDispatchMode):
    """Records every operator while it is entered that neither views nor only allocates."""

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
    """Bytes of the tensors made while it is entered: those alive now, and the most at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.largest = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        # what an operator is given was not made by it, even if it comes back as a view
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
