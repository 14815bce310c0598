"""Kernel launches and operators of the GPU path in forward and backward, without a GPU."""

import pytest
import torch

from mmbert_kernels.support.triton_import import FP_FUSION
from tests.support.fake_gpu import OperatorRecorder, fake_gpu, on_meta_device
from tests.support.packed_rows import packed_rows
from tests.support.tiny_models import BASES, tiny_config

pytest.importorskip("triton")

# Operators that raise on a GPU under torch.use_deterministic_algorithms, from the list in its
# documentation.
RAISING = (
    "adaptive_", "avg_pool3d", "bincount", "ctc_loss", "cumsum", "embedding_bag", "fractional_max",
    "grid_sampler", "histc", "kthvalue", "max_unpool", "median", "nll_loss", "put", "put_",
    "reflection_pad", "resize_", "scatter_reduce", "upsample_",
)  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_launches_and_operators(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """Every launch sets FP fusion explicitly; no operator raises in a deterministic run."""
    monkeypatch.setattr(
        "mmbert_kernels.packed_attention.cpu_blocked.host_ends", lambda _: [0, 100, 512]
    )
    (row,) = packed_rows(1, tokens=512, context=128, mask_ratio=0.3, vocabulary=131)
    fusions: dict[str, set[object]] = {}

    def launch(kernel: object, *_: object, **options: object) -> None:
        name = kernel.__name__  # type: ignore[attr-defined]
        fusions.setdefault(name, set()).add(options.get("enable_fp_fusion"))

    with fake_gpu(launch), OperatorRecorder() as operators:
        model, batch = on_meta_device(tiny_config(hidden_size=256), row, dtype)
        (model(batch, rotary_bases=BASES, dropout_seed=3).sum() * 0.25).backward()
    assert len(fusions) >= 6
    assert all(said == {FP_FUSION} for said in fusions.values()), fusions
    called = {call.name.removeprefix("aten::") for call in operators.calls}
    assert len(called) > 10
    assert not [name for name in called if name.startswith(RAISING)]
