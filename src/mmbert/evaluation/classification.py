"""Fine-tuning of the encoder for text classification, with mean pooling and a linear layer.

Input files are TSV with columns label and text. A model trained on one file can be tested on
several, for example in other languages.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from mmbert.command_line.tables import WholeTable
from mmbert.errors import ArgumentError, EvaluationDataError
from mmbert.evaluation.loaded_model import LoadedModel, mean_by_document
from mmbert.evaluation.tsv import read_lines
from mmbert.hub.models import pack


@dataclass(frozen=True)
class Example:
    """One labeled text."""

    label: str
    text: str


@dataclass(frozen=True)
class FineTuningSettings:
    """Training settings: AdamW, linear warm-up over a tenth of the steps, then linear decay to 0.

    A bfloat16 model is trained with float32 master weights, because updates at this learning rate
    are too small to change most bfloat16 weights.
    """

    epochs: int = 3
    learning_rate: float = 5e-5
    batch_size: int = 32
    weight_decay: float = 0.01
    max_length: int = 256
    seed: int = 21


@dataclass(frozen=True)
class ClassificationScore:
    """Accuracy on one file, and accuracy of predicting the majority label of the training file."""

    name: str
    examples: int
    accuracy: float
    majority: float


def read_examples(path: Path) -> list[Example]:
    """Read the examples of one file; a UserError names file and line of the first error."""
    examples = [Example(label, text) for _, label, text in read_lines(path, "label")]
    if not examples:
        raise EvaluationDataError(
            f"{path} contains no examples", remedy="write lines as label<tab>text"
        )
    return examples


class Classifier(nn.Module):
    """Encoder of a loaded model with a linear layer on its mean-pooled hidden states."""

    def __init__(self, model: LoadedModel, labels: int) -> None:
        super().__init__()
        self.encoder = model.module.model
        # Not a submodule, because the model's head and decoder are not trained.
        self._hidden_states = partial(
            model.module.hidden_states, rotary_bases=model.model.rotary_bases
        )
        self.output = nn.Linear(model.model.encoder.hidden_size, labels)
        nn.init.normal_(self.output.weight, std=0.02)
        nn.init.zeros_(self.output.bias)

    def forward(self, documents: Sequence[Tensor]) -> Tensor:
        """Map the token ids of each document to logits, float32 [documents, labels]."""
        batch = pack(documents).to(self.output.weight.device)
        hidden = self._hidden_states(batch)
        logits: Tensor = self.output(mean_by_document(hidden, batch.cu_seqlens))
        return logits


def fine_tune(
    model: LoadedModel, train: Path, tests: Sequence[Path], settings: FineTuningSettings
) -> list[ClassificationScore]:
    """Train on `train` and score each of `tests`. Modifies `model`; reload it for other uses.

    Raises:
        UserError: no test file, a malformed file, fewer than two labels, or a test label that is
            not in the training file.
    """
    if not tests:
        raise ArgumentError(
            f"no file to score after training on {train}", remedy="give at least one --test file"
        )
    examples = read_examples(train)
    labels = sorted({example.label for example in examples})
    if len(labels) < 2:
        raise EvaluationDataError(
            f"{train} has only one label", remedy="classification needs at least two"
        )
    test_sets = {path: read_examples(path) for path in tests}
    for path, others in test_sets.items():
        unknown = sorted({example.label for example in others} - set(labels))
        if unknown:
            raise EvaluationDataError(
                f"{path} has the label {unknown[0]!r}, which is not in {train}",
                remedy="train and test on the same labels",
            )
    torch.manual_seed(settings.seed)  # initializes the linear layer
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
    """Map master weights to parameters: float32 parameters themselves, float32 copies of others."""
    return {p if p.dtype == torch.float32 else p.detach().float(): p for p in module.parameters()}


def _gradients_to_masters(weights: dict[Tensor, nn.Parameter]) -> None:
    for weight, parameter in weights.items():
        if weight is not parameter:
            weight.grad = None if parameter.grad is None else parameter.grad.float()
            parameter.grad = None


@torch.no_grad()
def _masters_to_parameters(weights: dict[Tensor, nn.Parameter]) -> None:
    """Round the master weights into the narrower parameters."""
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


def render_scores(scores: Sequence[ClassificationScore]) -> WholeTable:
    """Build a table with one row per test file."""
    table = WholeTable(title="Classification", title_justify="left")
    table.add_column("test")
    for heading in ("examples", "accuracy", "majority label"):
        table.add_column(heading, justify="right")
    for score in scores:
        table.add_row(
            score.name, f"{score.examples:,}", f"{score.accuracy:.1%}", f"{score.majority:.1%}"
        )
    return table
