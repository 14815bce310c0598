"""Memory traffic of PyTorch's pointwise operators on a GPU is small.

The model's GPU path runs at base's real widths on meta tensors. Counted are the bytes read and
written by PyTorch's operators, except matrix products and attention, whose traffic is necessary.
Triton's kernels are not launched by operators and not counted.
"""

from collections import Counter

import pytest

from mmbert.model.config import EncoderConfig, Recompute
from tests.support.fake_gpu import OperatorRecorder, fake_gpu, on_meta_device
from tests.support.packed_rows import packed_rows
from tests.support.tiny_models import BASES

pytest.importorskip("triton")

TOKENS, MASKED, VOCABULARY = 49_152, 14_746, 256_000
WIDTH, INNER_WIDTH, HEADS = 768, 1152, 12
NEEDED = ("aten::mm", "aten::addmm", "torch_attn::")
HIDDEN = 2 * TOKENS * WIDTH
"""Bytes of one tensor of hidden states."""
# Tensors read and written by a layer's kernels, forward and backward: attention 12, two norms 17
# (one with dropout), rotary 10, the gated unit 8 of its own width.
LAYER = 39 * HIDDEN + 8 * 2 * TOKENS * INNER_WIDTH
# Allowed fraction of this for other operators, per layer and per operator outside the layers.
SMALL = 0.01
# The operations outside the layers that move more: …
KNOWN = {
    # the vocabulary's gradient, float32: scaled into bfloat16, added to the embedding's
    ("aten::mul", (VOCABULARY, WIDTH)),
    ("aten::add", (VOCABULARY, WIDTH)),
    # the target of the scattered gradient rows
    ("aten::zeros", (VOCABULARY, WIDTH)),
    ("aten::zeros", (TOKENS, WIDTH)),
    # the embedding's two gradients: the first layer has no norm to add them
    ("aten::add", (TOKENS, WIDTH)),
    # the head before the decoder, on masked positions
    ("aten::index_select", (MASKED, WIDTH)),
    ("aten::gelu", (MASKED, WIDTH)),
    ("aten::gelu_backward", (MASKED, WIDTH)),
    ("aten::mul_", (MASKED, WIDTH)),
    # the decoder bias' gradient, from the parts of its chunks
    ("aten::sum", (VOCABULARY,)),
}

Traffic = Counter[tuple[str, tuple[int, ...]]]


def traffic(layers: int, recompute: Recompute) -> Traffic:
    """Return the bytes by operator and shape of a row's forward and backward pass."""
    config = EncoderConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=INNER_WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        recompute=recompute,
    )
    (row,) = packed_rows(1, tokens=TOKENS, context=1024, mask_ratio=0.3, vocabulary=VOCABULARY)
    assert len(row.masked_positions) == MASKED
    launches = 0

    def launch(*_: object, **__: object) -> None:
        nonlocal launches
        launches += 1

    with fake_gpu(launch), OperatorRecorder() as operators:
        model, batch = on_meta_device(config, row)
        for _ in range(2):  # the first pass creates cached tables
            operators.calls.clear()
            model.zero_grad()
            (model(batch, rotary_bases=BASES, dropout_seed=3).sum() * 0.25).backward()
    found: Traffic = Counter()
    for call in operators.calls:
        if not call.name.startswith(NEEDED):
            found[call.name, call.shape] += call.bytes
    return found


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_nothing_heavy_is_left_to_point_wise_operations(recompute: Recompute) -> None:
    few, more = traffic(4, recompute), traffic(7, recompute)
    # a global layer and two local ones, all with a norm before attention
    in_layers = {key: (more[key] - few[key]) / 3 for key in more}
    outside = {key: few[key] - 4 * in_layers.get(key, 0) for key in few}
    if recompute == "full":
        # before a fully recomputed layer, the residual addition is not fused
        assert in_layers.pop(("aten::add", (TOKENS, WIDTH))) == 3 * HIDDEN
    heaviest = sorted(in_layers.items(), key=lambda item: -item[1])[:3]
    left = sum(in_layers.values()) / LAYER
    assert left < SMALL, heaviest
    heavy = {key for key, moved in outside.items() if moved > SMALL * LAYER}
    assert heavy - KNOWN == set()
    assert ("aten::add", (VOCABULARY, WIDTH)) in heavy
