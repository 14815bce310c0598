"""Parity of logits with transformers' AutoModelForMaskedLM, for packed and single documents."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM, ModernBertConfig, PreTrainedModel

from mmbert.model.config import EncoderConfig
from mmbert.model.packed_batch import PackedBatch
from mmbert.recipe import RotaryBases
from tests.support.tiny_models import BASES, random_row, tiny_config, tiny_model
from tests.support.transformers_versions import load_in, logits_under_masks

# Largest allowed difference, relative to the largest logit.
TOLERANCE = 1e-5


def reference_model(
    config: EncoderConfig, bases: RotaryBases, weights: dict[str, Tensor], attention: str
) -> PreTrainedModel:
    """Create transformers' model with the same sizes and weights, in evaluation mode."""
    reference = AutoModelForMaskedLM.from_config(
        ModernBertConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            norm_eps=config.norm_eps,
            # The defaults are outside the small vocabulary.
            bos_token_id=1,
            eos_token_id=2,
            cls_token_id=1,
            sep_token_id=2,
            global_attn_every_n_layers=config.global_attention_every,
            local_attention=config.local_window,
            global_rope_theta=bases.global_,
            local_rope_theta=bases.local_,
            pad_token_id=0,
        ),
        attn_implementation=attention,
    )
    missing, unexpected = reference.load_state_dict(weights, strict=False)
    assert not unexpected
    assert set(missing) <= {"decoder.weight"}
    reference.tie_weights()
    return reference.eval()


def packed_inputs(row: PackedBatch, window: int) -> tuple[dict[str, Tensor], Tensor]:
    """Return each kind of layer's attention mask [1, 1, T, T] and the positions [1, T].

    transformers has no packed path.
    """
    lengths = row.cu_seqlens.diff().tolist()
    documents = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    positions = torch.cat([torch.arange(n) for n in lengths])
    everything = torch.arange(len(documents))
    same = documents[:, None] == documents[None, :]
    near = (everything[:, None] - everything[None, :]).abs() <= window // 2
    masks = {"full_attention": same[None, None], "sliding_attention": (same & near)[None, None]}
    return masks, positions[None]


def packed_reference_logits(reference: PreTrainedModel, row: PackedBatch, window: int) -> Tensor:
    """Return logits [T, vocabulary], without a gradient."""
    masks, positions = packed_inputs(row, window)
    with torch.no_grad():
        return logits_under_masks(reference, row.input_ids[None], masks, positions)[0]


def relative_difference(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference relative to the largest logit."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.mark.parametrize("head_size", [16, 64])
def test_packed_logits_equal_those_of_transformers(head_size: int) -> None:
    config = tiny_config(hidden_size=4 * head_size)
    model, row = tiny_model(config), random_row()
    reference = reference_model(config, BASES, dict(model.state_dict()), "sdpa")
    ours = model.logits(row, rotary_bases=BASES, all_tokens=True)
    theirs = packed_reference_logits(reference, row, config.local_window)
    assert relative_difference(ours, theirs) < TOLERANCE
    masked = model.logits(row, rotary_bases=BASES)
    assert relative_difference(masked, theirs[row.masked_positions]) < TOLERANCE


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_each_document_gets_the_logits_it_has_alone(attention: str) -> None:
    config, row = tiny_config(), random_row()
    model = tiny_model(config)
    reference = reference_model(config, BASES, dict(model.state_dict()), attention)
    ours = model.logits(row, rotary_bases=BASES, all_tokens=True)
    ends = row.cu_seqlens.tolist()
    for start, stop in pairwise(ends):
        if stop > start:
            with torch.no_grad():
                alone = reference(input_ids=row.input_ids[None, start:stop]).logits[0]
            assert relative_difference(ours[start:stop], alone) < TOLERANCE


def test_a_document_of_8192_tokens() -> None:
    """The rotary frequencies equal theirs to the last bit, which would matter at such distances."""
    bases = RotaryBases.model_validate({"global": 160_000.0, "local": 160_000.0})
    config, row = tiny_config(hidden_size=256), random_row(documents=(8192,))
    model = tiny_model(config)
    reference = reference_model(config, bases, dict(model.state_dict()), "sdpa")
    ours = model.logits(row, rotary_bases=bases, all_tokens=True)
    with torch.no_grad():
        theirs = reference(input_ids=row.input_ids[None]).logits[0]
    difference = relative_difference(ours, theirs)
    print(f"8,192 tokens: {difference:.1e} of the largest logit")
    assert difference < TOLERANCE


def test_loss_equals_that_of_transformers() -> None:
    config, row = tiny_config(), random_row()
    model = tiny_model(config)
    reference = reference_model(config, BASES, dict(model.state_dict()), "sdpa")
    logits = packed_reference_logits(reference, row, config.local_window)
    used = row.weights > 0
    theirs = torch.nn.functional.cross_entropy(
        logits[row.masked_positions], row.labels, reduction="none"
    )
    ours = model(row, rotary_bases=BASES, dropout_seed=None)
    assert torch.allclose(ours[used], theirs[used], rtol=1e-5, atol=1e-5)
    assert (ours[~used] == 0).all()


def test_gradients_equal_those_of_transformers() -> None:
    config, row = tiny_config(), random_row()
    model = tiny_model(config)
    reference = reference_model(config, BASES, dict(model.state_dict()), "eager")
    model(row, rotary_bases=BASES, dropout_seed=None).sum().backward()
    with torch.enable_grad():
        logits = packed_logits_with_gradient(reference, row, config.local_window)
        losses = torch.nn.functional.cross_entropy(
            logits[row.masked_positions], row.labels, reduction="none"
        )
        (losses * row.weights).sum().backward()
    theirs = dict(reference.named_parameters())
    for name, parameter in model.named_parameters():
        expected = theirs[name].grad
        assert parameter.grad is not None, name
        assert expected is not None, name
        if name == "model.embeddings.tok_embeddings.weight":
            # transformers masks the embedding gradient of the padding token.
            parameter.grad[0], expected[0] = 0, 0
        difference = (parameter.grad - expected).norm() / expected.norm()
        assert difference < 1e-5, (name, difference)


def packed_logits_with_gradient(
    reference: PreTrainedModel, row: PackedBatch, window: int
) -> Tensor:
    """Return `packed_reference_logits` with a gradient, by eager attention (with additive mask)."""
    masks, positions = packed_inputs(row, window)
    lowest = torch.finfo(torch.float32).min
    added = {kind: torch.where(allowed, 0.0, lowest) for kind, allowed in masks.items()}
    return logits_under_masks(reference, row.input_ids[None], added, positions)[0]


def test_bfloat16_is_as_near_to_the_truth_as_transformers_is(tmp_path: Path) -> None:
    """Our bfloat16 error is at most 1.25 times theirs, against float64 on the rounded weights.

    The reference must be loaded in bfloat16, because a cast would round its rotary frequencies.
    """
    config = tiny_config(hidden_size=256, intermediate_size=384, num_hidden_layers=7)
    model, row = tiny_model(config).to(torch.bfloat16), random_row(documents=(100, 45, 7, 60))
    weights = {name: tensor.float() for name, tensor in model.state_dict().items()}
    reference = reference_model(config, BASES, weights, "sdpa")
    reference.save_pretrained(tmp_path)
    rounded = load_in(tmp_path, torch.bfloat16)
    truth = packed_reference_logits(reference.double(), row, config.local_window)
    theirs = packed_reference_logits(rounded, row, config.local_window)
    ours = model.logits(row, rotary_bases=BASES, all_tokens=True)
    assert (ours - truth).norm() < 1.25 * (theirs - truth).norm()
    assert (ours - truth).norm() < 0.1 * truth.norm()


@pytest.mark.parametrize(
    "changed",
    [
        RotaryBases.model_validate({"global": 10_000.0, "local": 300.0}),
        RotaryBases.model_validate({"global": 20_000.0, "local": 10_000.0}),
    ],
)
def test_the_comparison_sees_each_rotary_base(changed: RotaryBases) -> None:
    """Negative control: a wrong base in either kind of layer changes the logits."""
    config, row = tiny_config(), random_row()
    model = tiny_model(config)
    reference = reference_model(config, changed, dict(model.state_dict()), "sdpa")
    ours = model.logits(row, rotary_bases=BASES, all_tokens=True)
    theirs = packed_reference_logits(reference, row, config.local_window)
    assert relative_difference(ours, theirs) > 100 * TOLERANCE


@pytest.mark.parametrize("change", [{"local_window": 14}, {"local_window": 18}, {"norm_eps": 1e-3}])
def test_the_comparison_sees_window_and_eps(change: dict[str, float]) -> None:
    """Negative control: a window one token wider or narrower, or another eps, changes them."""
    config, row = tiny_config(), random_row()
    model = tiny_model(config)
    other = replace(config, **change)  # type: ignore[arg-type]
    reference = reference_model(other, BASES, dict(model.state_dict()), "sdpa")
    ours = model.logits(row, rotary_bases=BASES, all_tokens=True)
    theirs = packed_reference_logits(reference, row, other.local_window)
    assert relative_difference(ours, theirs) > 100 * TOLERANCE
