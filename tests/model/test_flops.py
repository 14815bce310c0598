"""FLOPs of training, compared with PyTorch's counter and with figures computed by hand."""

from collections.abc import Iterator

import numpy as np
import pytest
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mmbert.model.flops import flops_by_part, training_flops
from mmbert.planner import flops_per_token
from mmbert.recipe import ModelSettings
from mmbert.training.metrics import interval_metrics
from mmbert_kernels.support import dispatch
from tests.support.packed_rows import document_lengths, packed_rows
from tests.support.tiny_models import BASES, random_row, tiny_config, tiny_model

BASE = ModelSettings(
    hidden_size=768, intermediate_size=1152, num_hidden_layers=22, num_attention_heads=12
)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use plain PyTorch for all operations, for its FLOP counter."""
    monkeypatch.setenv("MMBERT_KERNELS", "reference")
    monkeypatch.setenv("MMBERT_ATTENTION", "reference")
    dispatch.backend.cache_clear()
    with sdpa_kernel(SDPBackend.MATH):
        yield
    dispatch.backend.cache_clear()


def counted(documents: tuple[int, ...], **changes: int) -> list[tuple[int, float]]:
    """Return PyTorch's count and ours: of both passes, and of the encoder's forward pass."""
    config = tiny_config(hidden_size=32, intermediate_size=40, vocab_size=90, **changes)
    model, row = tiny_model(config), random_row(documents=documents, masked=20, vocab_size=90)
    with FlopCounterMode(display=False) as both_ways:
        model(row, rotary_bases=BASES, dropout_seed=3).sum().backward()
    with FlopCounterMode(display=False) as forward:
        model.hidden_states(row, rotary_bases=BASES)
    settings = ModelSettings(
        hidden_size=32, intermediate_size=40, num_attention_heads=4,
        num_hidden_layers=config.num_hidden_layers, local_window=config.local_window,
        global_attention_every=config.global_attention_every,
    )  # fmt: skip
    ours = training_flops(settings, 90, documents, 20)
    encoder = training_flops(settings, 90, documents, 0)
    return [(both_ways.get_total_flops(), ours), (forward.get_total_flops(), encoder / 3)]


@pytest.mark.parametrize("documents", [(40,), (45, 7, 60, 1, 15)])
def test_pytorch_counts_as_many(plain: None, documents: tuple[int, ...]) -> None:
    """With global attention no kernel computes masked scores."""
    for theirs, ours in counted(documents, global_attention_every=1):
        assert theirs == ours


def test_every_user_counts_by_the_same_function() -> None:
    assert interval_metrics.training_flops is training_flops
    lengths = np.array([1024, 600, 200, 130, 129, 5000])
    tokens, masked = int(lengths.sum()), 2000
    mean = float((lengths.astype(float) ** 2).sum() / tokens)
    parts = flops_by_part(BASE, 256_000, lengths, masked)
    assert flops_per_token(BASE, 256_000, masked / tokens, mean).total * tokens == pytest.approx(
        parts.total, rel=1e-9
    )
    assert parts.total == training_flops(BASE, 256_000, lengths, masked)


def test_base_by_hand() -> None:
    """Full documents of 1,024 tokens, per token: 360,000 tokens/s are 399 TFLOP/s, or 393 with the
    shorter documents of web text."""
    parts = flops_by_part(BASE, 256_000, [1024], 0.3 * 1024).per(1024)
    assert parts.encoder == 6 * 22 * (4 * 768**2 + 3 * 768 * 1152)
    assert parts.head == pytest.approx(6 * 0.3 * 768 * (768 + 256_000))
    assert parts.global_attention == 12 * 768 * 8 * 1024
    assert parts.local_attention == 12 * 768 * 14 * 129
    assert parts.total * 360_000 / 1e12 == pytest.approx(399.2, abs=0.1)
    (row,) = packed_rows(1, tokens=49_152, context=1024, mask_ratio=0.3, vocabulary=256_000)
    flops = training_flops(BASE, 256_000, document_lengths(row), len(row.masked_positions))
    assert flops / 49_152 * 360_000 / 1e12 == pytest.approx(393, abs=2)


def test_a_public_figure_of_bert_large() -> None:
    """MLPerf 4.1's BERT-large on 8 H200: 255,000 tokens/s per GPU, reported as about 495 TFLOP/s.

    BERT's MLP has no gate, so 2df instead of 3df; its mean length is somewhat below 512.
    """
    large = ModelSettings(
        hidden_size=1024, intermediate_size=2731, num_hidden_layers=24, num_attention_heads=16,
        global_attention_every=1,
    )  # fmt: skip
    rates = [
        255_000 * flops_by_part(large, 30_522, [mean], 0.15 * mean).per(mean).total / 1e12
        for mean in (256, 512)
    ]
    assert rates == pytest.approx([488.7, 508.0], abs=0.1)
