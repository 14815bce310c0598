"""Activation memory by formula, compared with the storages of the GPU path on meta tensors.

Needs no GPU. The internal memory of FlashAttention's backward pass is added as in its source.
"""

import gc
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmbert.model.activation_memory import activation_memory
from mmbert.model.config import EncoderConfig, Recompute
from tests.support.fake_gpu import fake_gpu, on_meta_device
from tests.support.packed_rows import packed_rows
from tests.support.tiny_models import BASES

TOKENS, HIDDEN, INNER, HEADS = 16_384, 768, 1152, 12
ATTENTION_BACKWARD = "torch_attn::_varlen_attn_backward"


class Storages(TorchDispatchMode):
    """Counts the live bytes of the storages that operators create, and their peak."""

    def __init__(self, known: list[Tensor], inside_attention: int) -> None:
        super().__init__()
        self._kept = [tensor.untyped_storage() for tensor in known]
        self._seen: dict[int, Any] = {id(storage): None for storage in self._kept}
        self._inside = inside_attention
        self.live = self.highest = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        results = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(results):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        inside = self._inside if function.name().startswith(ATTENTION_BACKWARD) else 0
        self.highest = max(self.highest, self.live + inside)
        return results

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._seen:
            return

        def gone(_: Any) -> None:
            self.live -= size
            del self._seen[key]

        self._seen[key] = weakref.ref(storage, gone)
        self.live += size


def flash_attention_bytes(slots: int) -> int:
    """Return the bytes of mha_varlen_bwd's dq_accum and softmax_d.

    float32 [T + 128 · slots, heads, head size] and [heads, T + 128 · slots].
    """
    return 4 * (TOKENS + 128 * slots) * (HIDDEN + HEADS)


def measured(config: EncoderConfig, slots: int) -> dict[str, int]:
    """Return the bytes saved by the forward pass, and the peaks of both passes."""
    (row,) = packed_rows(
        1, tokens=TOKENS, context=1024, mask_ratio=0.125, vocabulary=config.vocab_size
    )
    with fake_gpu(lambda *_, **__: None):
        model, batch = on_meta_device(config, row)
        batch = replace(batch, cu_seqlens=torch.empty(slots + 1, dtype=torch.int32, device="meta"))
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        model(batch, rotary_bases=BASES, dropout_seed=3).sum().backward()  # fills the caches
        gc.collect()
        known = [t for p in model.parameters() for t in (p, p.grad) if t is not None]
        known += [tensor for tensor in vars(batch).values() if isinstance(tensor, Tensor)]
        with Storages(known, flash_attention_bytes(slots)) as storages:
            losses = model(batch, rotary_bases=BASES, dropout_seed=3)
            kept, forward, storages.highest = storages.live, storages.highest, 0
            losses.sum().backward()
    return {"kept": kept, "forward": forward, "backward": storages.highest}


@pytest.mark.parametrize("vocabulary", [3000, 50_000])
@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_the_formula_is_what_the_path_allocates(recompute: Recompute, vocabulary: int) -> None:
    """With as many slots as documents, and with so many that attention determines the peak."""
    config = EncoderConfig(vocabulary, HIDDEN, INNER, 4, HEADS, recompute=recompute)
    peaks = []
    for slots in (32, 1000):
        found = measured(config, slots)
        expected = activation_memory(
            config, row_tokens=TOKENS, masked_tokens=2048, document_slots=slots
        )
        assert found["kept"] == pytest.approx(expected.kept, rel=0.002)
        assert found["forward"] == pytest.approx(expected.forward_peak, rel=0.02)
        assert found["backward"] == pytest.approx(expected.backward_peak, rel=0.01)
        peaks.append(expected.backward_peak)
    assert peaks[1] > 1.05 * peaks[0]


def test_attentions_own_memory_by_hand() -> None:
    """Base with full recomputation and documents of 100 tokens: 1,970 slots, 948 MB; each further
    slot takes 128 rows of 768 and 12 float32 numbers."""
    config = EncoderConfig(256_000, 768, 1152, 22, 12, recompute="full")
    small = replace(config, vocab_size=1000)

    def peak(slots: int) -> int:
        return activation_memory(
            small, row_tokens=49_152, masked_tokens=14_746, document_slots=slots
        ).backward_peak

    assert peak(1970) - peak(1969) == 128 * 4 * (768 + 12)
    assert peak(1970) - peak(0) > 4 * 49_152 * 768
