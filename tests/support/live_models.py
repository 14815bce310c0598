"""Small live Hugging Face models, padded batches for them, and what a model computes on one."""

from dataclasses import dataclass
from typing import Any

import torch
import transformers
from packaging.version import Version
from torch import Tensor
from transformers import ModernBertConfig

ENCODER = "ModernBertModel"
MASKED_LM = "ModernBertForMaskedLM"
SEQUENCE = "ModernBertForSequenceClassification"
TOKENS = "ModernBertForTokenClassification"
QUESTIONS = "ModernBertForQuestionAnswering"
KINDS = [
    kind
    for kind in (ENCODER, MASKED_LM, SEQUENCE, TOKENS, QUESTIONS)
    if hasattr(transformers, kind)  # question answering is of transformers 4.51
]
VERSION = Version(transformers.__version__)
VOCABULARY = 200
LENGTHS = {
    "equal": [30] * 4,
    "mixed": [60, 7, 3, 25, 14, 40],
    "pairs": [9, 12, 8, 20, 11],
}


def live_model(
    kind: str = ENCODER, *, seed: int = 3, attention: str = "sdpa", **changes: Any
) -> Any:
    """Return a model of two global and two local layers (window ±8) with uneven random weights."""
    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 4, "num_attention_heads": 4, "local_attention": 16,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1,
        "sep_token_id": 2, "num_labels": 2 if kind == QUESTIONS else 3,
        "classifier_pooling": "mean", "initializer_range": 0.2,
    }  # fmt: skip
    torch.manual_seed(seed)
    config = ModernBertConfig(**settings | changes)
    config._attn_implementation = attention
    model = getattr(transformers, kind)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms are ones and biases zeros at first
                parameter.add_(0.3 * torch.randn(parameter.shape))
    return model


def padded(lengths: list[int], *, left: bool = False, seed: int = 1) -> dict[str, Tensor]:
    """Return input_ids and attention_mask, int64 [texts, longest]."""
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths)
    ids = torch.zeros(len(lengths), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        place = slice(width - length, width) if left else slice(0, length)
        ids[row, place] = torch.randint(3, VOCABULARY, (length,), generator=generator)
        mask[row, place] = 1
    return {"input_ids": ids, "attention_mask": mask}


def with_labels(kind: str, batch: dict[str, Tensor], *, seed: int = 2) -> dict[str, Tensor]:
    """Return the batch with labels for a model of `kind`, none for an encoder."""
    generator = torch.Generator().manual_seed(seed)
    mask = batch["attention_mask"].bool()
    if kind == SEQUENCE:
        return batch | {"labels": torch.randint(3, (len(mask),), generator=generator)}
    if kind in (MASKED_LM, TOKENS):
        values = VOCABULARY if kind == MASKED_LM else 3
        labels = torch.randint(values, mask.shape, generator=generator)
        counted = mask & (torch.rand(mask.shape, generator=generator) < 0.4)
        return batch | {"labels": labels.masked_fill(~counted, -100)}
    if kind == QUESTIONS:
        positions = {
            f"{name}_positions": torch.randint(3, (len(mask),), generator=generator)
            for name in ("start", "end")
        }
        return batch | positions
    return batch


@dataclass(frozen=True)
class Results:
    """Loss, outputs at real tokens, and gradients of a training step."""

    loss: Tensor
    outputs: dict[str, Tensor]
    gradients: dict[str, Tensor]


def train(model: Any, batch: dict[str, Any], **arguments: Any) -> Results:
    """Run forward in both modes and backward; without labels, towards fixed noise."""
    mask = batch["attention_mask"].bool()
    inputs = batch | arguments
    with torch.no_grad():
        evaluated = model.eval()(**inputs)
    outputs = {}
    for name in ("last_hidden_state", "logits", "start_logits", "end_logits"):
        value = getattr(evaluated, name, None)
        if value is not None:
            by_token = value.shape[:2] == mask.shape
            outputs[name] = value[mask] if by_token else value
    model.zero_grad()
    found = model.train()(**inputs)
    loss = getattr(found, "loss", None)
    if loss is None:
        rows = next(v for v in found.values() if isinstance(v, Tensor))
        rows = rows[mask] if rows.shape[:2] == mask.shape else rows
        noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))
        loss = (rows - noise).square().mean()
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return Results(loss.detach(), outputs, gradients)


def difference(one: Tensor, other: Tensor) -> float:
    """Return the largest difference relative to the largest entry of `other`."""
    assert one.shape == other.shape
    one, other = one.detach().double(), other.detach().double()
    return float((one - other).abs().max() / other.abs().max())


def assert_same(
    one: Results,
    other: Results,
    *,
    loss: float = 1e-6,
    output: float = 2e-6,
    gradient: float = 5e-6,
) -> None:
    """Compare with the tolerances of float32, naming what differs."""
    assert difference(one.loss, other.loss) <= loss
    assert one.outputs.keys() == other.outputs.keys()
    for name, value in other.outputs.items():
        assert difference(one.outputs[name], value) <= output, name
    assert one.gradients.keys() == other.gradients.keys()
    largest = max(float(value.abs().max()) for value in other.gradients.values())
    for name, value in other.gradients.items():
        if float(value.abs().max()) < 1e-6 * largest:
            # Question answering's bias shifts all scores alike: its gradient is 0 but for rounding.
            assert float(one.gradients[name].abs().max()) < 1e-6 * largest, name
        else:
            assert difference(one.gradients[name], value) <= gradient, name
