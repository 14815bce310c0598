"""Training of live Hugging Face models as benchmarks do it: sizes, lengths, batches and steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

IGNORED = -100
MASK_RATIO = 0.3
EQUAL, PAIRS, MIXED = "equal", "pairs", "mixed"
KINDS_OF_LENGTHS = (EQUAL, PAIRS, MIXED)
ENCODER, CLASSIFIER, MASKED_LM = "encoder", "classifier", "masked LM"
TASKS = (ENCODER, CLASSIFIER, MASKED_LM)
_CLASSES = {
    ENCODER: "ModernBertModel",
    CLASSIFIER: "ModernBertForSequenceClassification",
    MASKED_LM: "ModernBertForMaskedLM",
}
# Mean, longest, and standard deviation of the logarithm: log-normal, as lengths of texts are.
_DRAWN = {PAIRS: (25, 128, 0.55), MIXED: (60, 512, 0.9)}
_SHORTEST, _FIRST_WORD = 4, 3
_LABELS = 3

Padded = dict[str, Tensor]
Batch = list[Padded]
"""Padded batches of one step, each with a forward pass of its own."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of the model, and of a step's batches."""

    vocabulary: int = 32_768
    hidden: int = 384
    intermediate: int = 1152
    layers: int = 6
    heads: int = 6
    texts: int = 32
    """Of a batch."""
    equal: int = 128
    """Tokens of each text of equal length."""


TINY = Sizes(vocabulary=500, hidden=32, intermediate=48, layers=2, heads=2, texts=4, equal=8)
"""A model that a CPU trains in an instant, to try a benchmark."""


def build(task: str, sizes: Sizes, *, attention: str = "sdpa", **changes: Any) -> Any:
    """Return transformers' ModernBERT for `task`, with the same random weights each time.

    `attention`: its implementation; `changes`: further keys of ModernBertConfig.
    """
    import transformers

    settings = {
        "vocab_size": sizes.vocabulary, "hidden_size": sizes.hidden,
        "intermediate_size": sizes.intermediate, "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads, "max_position_embeddings": 8192, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2,
        "num_labels": _LABELS, "classifier_pooling": "mean",
    }  # fmt: skip
    torch.manual_seed(21)
    config = transformers.ModernBertConfig(**settings | changes)
    config._attn_implementation = attention
    return getattr(transformers, _CLASSES[task])(config).train()


def draw_lengths(kind: str, sizes: Sizes, generator: np.random.Generator) -> list[int]:
    """Draw the lengths of a batch's texts in tokens."""
    if kind == EQUAL:
        return [sizes.equal] * sizes.texts
    mean, longest, deviation = _DRAWN[kind]
    drawn = generator.lognormal(np.log(mean) - deviation**2 / 2, deviation, sizes.texts)
    return np.clip(drawn.round(), _SHORTEST, longest).astype(int).tolist()


def make_batch(task: str, kind: str, sizes: Sizes, generator: np.random.Generator) -> Batch:
    """Draw a step's texts: two batches of sentence pairs, otherwise one."""
    count = 2 if kind == PAIRS else 1
    return [
        _padded(task, draw_lengths(kind, sizes, generator), sizes, generator) for _ in range(count)
    ]


def _padded(
    task: str, lengths: Sequence[int], sizes: Sizes, generator: np.random.Generator
) -> Padded:
    """Return a batch of Zipf-distributed tokens, with the labels of `task`."""
    shape = (len(lengths), max(lengths))
    ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    labels = np.full(shape, IGNORED)
    for row, length in enumerate(lengths):
        words = generator.zipf(1.2, length) + _FIRST_WORD
        ids[row, :length] = np.minimum(words, sizes.vocabulary - 1)
        mask[row, :length] = 1
        chosen = generator.permutation(length)[: max(1, round(MASK_RATIO * length))]
        labels[row, chosen] = ids[row, chosen]
        if task == MASKED_LM:
            ids[row, chosen] = _FIRST_WORD
    batch = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    if task == MASKED_LM:
        batch["labels"] = torch.from_numpy(labels)
    elif task == CLASSIFIER:
        batch["labels"] = torch.from_numpy(generator.integers(_LABELS, size=len(lengths)))
    return batch


def count_tokens(batch: Batch) -> tuple[int, int]:
    """Return the numbers of real tokens and of all, padding included."""
    masks = [padded["attention_mask"] for padded in batch]
    return sum(int(mask.sum()) for mask in masks), sum(mask.numel() for mask in masks)


def loss_of(model: Any, batch: Batch) -> Tensor:
    """Compute the mean loss of a step's forward passes.

    An encoder's is the distance of the texts' mean vectors to fixed noise.
    """
    losses = []
    for padded in batch:
        output = model(**padded)
        if hasattr(output, "loss"):
            losses.append(output.loss)
            continue
        means = mean_pooled(output.last_hidden_state, padded["attention_mask"])
        noise = torch.randn(means.shape, generator=torch.Generator().manual_seed(0))
        losses.append((means - noise.to(means.device)).square().mean())
    return torch.stack(losses).mean()


def mean_pooled(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the real tokens: [B, S, d], [B, S] -> [B, d]."""
    weights = mask[..., None].to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1)


class Lane:
    """A model in training, one of those that are compared."""

    def __init__(self, name: str, model: Any, loss: Callable[[Any, Any], Tensor] = loss_of) -> None:
        """Create it; `loss` computes a step's loss from model and batch."""
        self.name, self.model, self._loss = name, model, loss
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def loss(self, batch: Any) -> Tensor:
        """Run the forward pass alone."""
        return self._loss(self.model, batch)

    def step(self, batch: Any) -> Tensor:
        """Run forward, backward and update; return the loss."""
        loss = self.loss(batch)
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return loss.detach()


def kept_bytes(lane: Lane, batch: Any) -> int:
    """Count the bytes of all tensors that a forward pass keeps for the backward pass.

    Parameters do not count. What functions keep as attributes counts too.
    """
    parameters = {each.untyped_storage().data_ptr() for each in lane.model.parameters()}
    found: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # a node that holds its own output is never freed

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = lane.loss(batch)
    nodes, seen = [loss.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for value in getattr(node, "__dict__", {}).values():
            for each in value if isinstance(value, tuple | list) else (value,):
                if isinstance(each, Tensor):
                    keep(each)
        nodes += [following for following, _ in node.next_functions]
    return sum(found.values())
