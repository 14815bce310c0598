"""The model on the fused kernels in Triton's interpreter: equal results, predicted memory.

The interpreter must be on before the kernels are imported, so this runs in a separate process, in
float32 (the interpreter's bfloat16 is wrong).
"""

import io
import subprocess
import sys
from functools import cache

import pytest
import torch
from torch import Tensor

from mmbert.model.activation_memory import activation_memory
from mmbert.model.config import EncoderConfig
from mmbert.model.packed_batch import PackedBatch
from tests.model.test_activation_memory import kept_bytes
from tests.support.environment import ROOT, with_packages
from tests.support.tiny_models import BASES, random_row, tiny_config, tiny_model

MASKED = 16
RECOMPUTE = ("none", "selective")


def config_of(recompute: str) -> EncoderConfig:
    return tiny_config(num_hidden_layers=2, recompute=recompute)


def row() -> PackedBatch:
    return random_row(documents=(30, 17, 9), masked=MASKED)


def results(recompute: str) -> dict[str, Tensor]:
    """Return losses, gradients by parameter name, and the bytes saved for the backward pass."""
    model = tiny_model(config_of(recompute))
    kept = kept_bytes(model, row())
    losses = model(row(), rotary_bases=BASES, dropout_seed=3)
    losses.sum().backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {"losses": losses.detach(), "kept": torch.tensor(kept)} | gradients


def write_results() -> None:
    """Entry point of the process with the interpreter."""
    buffer = io.BytesIO()
    torch.save({recompute: results(recompute) for recompute in RECOMPUTE}, buffer)
    sys.stdout.buffer.write(buffer.getvalue())


@cache
def fused_results() -> dict[str, dict[str, Tensor]]:
    pytest.importorskip("triton")
    environment = with_packages(
        ROOT, ROOT / "tests", MMBERT_KERNELS="triton", TRITON_INTERPRET="1", OMP_NUM_THREADS="1"
    )
    script = "from tests.model.test_fused_kernels import write_results; write_results()"
    finished = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, timeout=300
    )
    assert finished.returncode == 0, finished.stderr.decode()
    return torch.load(io.BytesIO(finished.stdout))


@pytest.mark.parametrize("recompute", RECOMPUTE)
def test_losses_and_gradients_are_those_of_the_references(recompute: str) -> None:
    fused, reference = fused_results()[recompute], results(recompute)
    for name in reference.keys() - {"kept"}:
        difference = (fused[name] - reference[name]).norm() / reference[name].norm()
        assert difference < 1e-5, (name, difference)


@pytest.mark.parametrize("recompute", RECOMPUTE)
def test_what_is_kept_is_what_the_formula_says(recompute: str) -> None:
    expected = activation_memory(
        config_of(recompute),
        row_tokens=row().input_ids.numel(),
        masked_tokens=MASKED,
        element_size=4,
    )
    # Not counted by the formula: document numbers and a few vectors.
    assert fused_results()[recompute]["kept"] == pytest.approx(expected.kept, rel=0.015)
