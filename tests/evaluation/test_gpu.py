"""Evaluations on a GPU agree with those on a CPU."""

from pathlib import Path

import pytest
import torch

from mmbert.evaluation.loaded_model import LoadedModel
from mmbert.evaluation.masked_loss import masked_losses
from tests.support.written_runs import Run


@pytest.mark.gpu
def test_losses_and_vectors_agree_with_the_cpu(run: Run, shards: Path) -> None:
    on_cpu, on_gpu = LoadedModel(run.checkpoint, "cpu"), LoadedModel(run.checkpoint, "cuda")
    expected, found = masked_losses(on_cpu, shards), masked_losses(on_gpu, shards)
    losses = found.losses.by_label(found.names)
    for language, loss in expected.losses.by_label(expected.names).items():
        assert losses[language] == pytest.approx(loss, abs=1e-3)
    texts = ["the old town", "ein kind liest am fenster"]
    difference = on_cpu.sentence_vectors(texts) - on_gpu.sentence_vectors(texts)
    assert float(difference.abs().max()) < 1e-3
    assert torch.cuda.max_memory_allocated() > 0
