"""Fine-tuning on a classification file: the whole encoder, mean pooling and a linear layer.

A file is TSV: a label, a tab, the text. Trained on one file, a model can be tested on others, in
other languages too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn
from tqdm import tqdm

from mmbert.errors import UserError
from mmbert.evaluation.loaded_model import LoadedModel, mean_by_document
from mmbert.evaluation.tsv import read_lines
from mmbert.hub.models import pack


@dataclass(frozen=True)
class Example:
    """One line of a file."""

    label: str
    text: str


@dataclass(frozen=True)
class FineTuningSettings:
    """How to train: AdamW, linear warm-up over a tenth of the steps, then linear decay to 0.

    A model in bfloat16 is trained by float32 copies of its weights: a step at this learning rate is
    smaller than what bfloat16 can add to a weight.
    """

    epochs: int = 3
    learning_rate: float = 5e-5
    batch_size: int = 32
    weight_decay: float = 0.01
    max_length: int = 256
    seed: int = 21


@dataclass(frozen=True)
class ClassificationScore:
    """Accuracy on one file, beside that of always giving the training file's commonest label."""

    name: str
    examples: int
    accuracy: float
    majority: float


def read_examples(path: Path) -> list[Example]:
    """The examples of one file; UserError names file and line of whatever is wrong."""
    examples = [Example(label, text) for _, label, text in read_lines(path, "label")]
    if not examples:
        raise UserError(f"{path} holds no examples", remedy="write lines as label<tab>text")
    return examples


class Classifier(nn.Module):
    """The encoder of a loaded model with a linear layer over the mean of its hidden states."""

    def __init__(self, model: LoadedModel, labels: int) -> None:
        super().__init__()
        self.encoder = model.module.model
        # Not the whole model as a part of this one: its head and decoder are not trained.
        self._hidden_states = partial(
            model.module.hidden_states, rotary_bases=model.model.rotary_bases
        )
        self.output = nn.Linear(model.model.encoder.hidden_size, labels)
        nn.init.normal_(self.output.weight, std=0.02)
        nn.init.zeros_(self.output.bias)

    def forward(self, documents: Sequence[Tensor]) -> Tensor:
        """Token ids of each document to float32 [documents, labels]."""
        batch = pack(documents).to(self.output.weight.device)
        hidden = self._hidden_states(batch)
        logits: Tensor = self.output(mean_by_document(hidden, batch.cu_seqlens))
        return logits


def fine_tune(
    model: LoadedModel, train: Path, tests: Sequence[Path], settings: FineTuningSettings
) -> list[ClassificationScore]:
    """Train on `train`, score on each of `tests`. `model` is trained itself: load it afresh after.

    UserError: no test file, a malformed one, fewer than two labels, a test label that training has
    not seen.
    """
    if not tests:
        raise UserError(
            f"nothing to score after training on {train}", remedy="name at least one --test file"
        )
    examples = read_examples(train)
    labels = sorted({example.label for example in examples})
    if len(labels) < 2:
        raise UserError(f"{train} has one label only", remedy="give at least two labels")
    test_sets = {path: read_examples(path) for path in tests}
    for path, others in test_sets.items():
        unknown = sorted({example.label for example in others} - set(labels))
        if unknown:
            raise UserError(
                f"{path} has the label {unknown[0]!r}, which {train} has not",
                remedy="train and test on the same labels",
            )
    torch.manual_seed(settings.seed)  # the linear layer's start
    classifier = Classifier(model, len(labels)).to(model.device)
    _train(classifier, model, examples, labels, settings)
    counts = [sum(example.label == label for example in examples) for label in labels]
    majority_label = labels[counts.index(max(counts))]
    return [
        ClassificationScore(
            name=path.stem,
            examples=len(others),
            accuracy=_accuracy(classifier, model, others, labels, settings),
            majority=sum(example.label == majority_label for example in others) / len(others),
        )
        for path, others in test_sets.items()
    ]


def _train(
    classifier: Classifier,
    model: LoadedModel,
    examples: Sequence[Example],
    labels: Sequence[str],
    settings: FineTuningSettings,
) -> None:
    documents = [model.encode(example.text, max_length=settings.max_length) for example in examples]
    targets = torch.tensor([labels.index(example.label) for example in examples])
    classifier.requires_grad_(True)
    weights = _master_weights(classifier)
    groups: list[dict[str, Any]] = [
        {"params": [w for w in weights if w.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [w for w in weights if w.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate)
    batches = math.ceil(len(examples) / settings.batch_size)
    steps = settings.epochs * batches
    warmup = max(1, steps // 10)
    generator = torch.Generator().manual_seed(settings.seed)
    with tqdm(total=steps, desc="fine-tuning", unit="step", leave=False) as bar:
        for step in range(steps):
            if step % batches == 0:
                order = torch.randperm(len(examples), generator=generator)
            place = step % batches * settings.batch_size
            chosen = order[place : place + settings.batch_size]
            rate = min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * rate
            logits = classifier([documents[number] for number in chosen.tolist()])
            loss = nn.functional.cross_entropy(logits, targets[chosen].to(logits.device))
            optimizer.zero_grad()
            loss.backward()
            _gradients_to_masters(weights)
            optimizer.step()
            _masters_to_parameters(weights)
            bar.update()


def _master_weights(module: nn.Module) -> dict[Tensor, nn.Parameter]:
    """What is trained, with the parameter each is for: itself, or a copy where it is narrower."""
    return {p if p.dtype == torch.float32 else p.detach().float(): p for p in module.parameters()}


def _gradients_to_masters(weights: dict[Tensor, nn.Parameter]) -> None:
    for weight, parameter in weights.items():
        if weight is not parameter:
            weight.grad = None if parameter.grad is None else parameter.grad.float()
            parameter.grad = None


@torch.no_grad()
def _masters_to_parameters(weights: dict[Tensor, nn.Parameter]) -> None:
    """Give the narrower parameters the weights that they are to have."""
    for weight, parameter in weights.items():
        if weight is not parameter:
            parameter.copy_(weight)


@torch.no_grad()
def _accuracy(
    classifier: Classifier,
    model: LoadedModel,
    examples: Sequence[Example],
    labels: Sequence[str],
    settings: FineTuningSettings,
) -> float:
    documents = [model.encode(example.text, max_length=settings.max_length) for example in examples]
    correct = 0
    for row in model.rows(documents):
        predictions = classifier([documents[number] for number in row]).argmax(1).tolist()
        correct += sum(
            labels[prediction] == examples[number].label
            for prediction, number in zip(predictions, row, strict=True)
        )
    return correct / len(examples)


def render_scores(scores: Sequence[ClassificationScore]) -> Table:
    """One line per test file."""
    table = Table(title="Classification", title_justify="left")
    table.add_column("test")
    for heading in ("examples", "accuracy", "commonest label"):
        table.add_column(heading, justify="right")
    for score in scores:
        table.add_row(
            score.name, f"{score.examples:,}", f"{score.accuracy:.1%}", f"{score.majority:.1%}"
        )
    return table
