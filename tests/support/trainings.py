"""Trainings by the trainers of transformers and sentence-transformers, packed and unpacked.

`python -m tests.support.trainings MODEL PAIRS.jsonl` does all of TRAININGS both ways and prints
what came out, as JSON in the last line. It needs the packages of tests/support/trainer_packages.py.
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

import mmbert
from mmbert.hub.live.twin import Twins


@dataclass(frozen=True)
class Training:
    """A training on pairs: of embeddings, of a classifier of lengths, or of masked tokens."""

    kind: str
    steps: int = 6
    batch: int = 16
    accumulate: int = 1
    """Batches of a step."""
    bf16: bool = False
    learning_rate: float = 1e-3

    def arguments(self, folder: str) -> dict[str, Any]:
        """Return the arguments that both trainers take."""
        return {
            "output_dir": folder, "max_steps": self.steps, "learning_rate": self.learning_rate,
            "per_device_train_batch_size": self.batch, "per_device_eval_batch_size": self.batch,
            "gradient_accumulation_steps": self.accumulate, "bf16": self.bf16, "use_cpu": True,
            "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "seed": 5,
        }  # fmt: skip


TRAININGS = {
    "classifier": Training("sequence"),
    "masked language model": Training("masked", accumulate=2, steps=4),
    "embeddings": Training("embeddings"),
    # Last: transformers 4.48 leaves its precision to the trainings after it in the process.
    "classifier in bfloat16": Training("sequence", bf16=True),
}


@dataclass
class Trained:
    """What came out of a training."""

    losses: list[float]
    """Of each batch, unrounded."""
    outputs: list[list[float]]
    """Of some texts, by the trained model: vectors, or logits of texts or tokens."""
    saved: list[list[float]]
    """The same by the model loaded from its folder, which is not packed."""
    evaluated: float = 0.0
    """The trainer's evaluation loss."""
    detours: list[str] = field(default_factory=list)
    computed: int = 0
    """Tokens computed packed."""


def train(training: Training, model: Path, pairs: Path, *, packed: bool) -> Trained:
    """Train the model of a folder on lines of `anchor` and `positive`."""
    from datasets import Dataset

    data = Dataset.from_json(str(pairs)).select_columns(["anchor", "positive"])
    of_kind = _embeddings if training.kind == "embeddings" else _model
    with tempfile.TemporaryDirectory() as folder, _counted_tokens() as counts:
        found = of_kind(training, str(model), data, folder, packed)
    found.computed = sum(counts)
    return found


def _embeddings(training: Training, source: str, pairs: Any, folder: str, packed: bool) -> Trained:
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
        losses,
    )

    model = SentenceTransformer(source, device="cpu")
    if packed:
        mmbert.pack(model)
    trainer = _recording(SentenceTransformerTrainer)(
        model,
        SentenceTransformerTrainingArguments(**training.arguments(folder)),
        train_dataset=pairs,
        loss=losses.MultipleNegativesRankingLoss(model),
    )
    trainer.train()
    texts = pairs["anchor"][:50]
    vectors = model.encode(texts)
    model.save(folder)
    saved = SentenceTransformer(folder, device="cpu").encode(texts)
    return Trained(
        trainer.losses, vectors.tolist(), saved.tolist(), detours=_detours(model[0].auto_model)
    )


def _model(training: Training, source: str, pairs: Any, folder: str, packed: bool) -> Trained:
    from transformers import (
        AutoModelForMaskedLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorForLanguageModeling,
        Trainer,
        TrainingArguments,
    )

    tokenizer = AutoTokenizer.from_pretrained(source)
    masks = training.kind == "masked"
    cls = AutoModelForMaskedLM if masks else AutoModelForSequenceClassification
    torch.manual_seed(7)  # of the new head
    model = cls.from_pretrained(source, **({} if masks else {"num_labels": 3}))
    if packed:
        mmbert.pack(model)

    def prepare(row: dict[str, str]) -> dict[str, Any]:
        label = {} if masks else {"label": min(len(row["anchor"]) // 20, 2)}
        return dict(tokenizer(row["anchor"], truncation=True)) | label

    data = pairs.map(prepare, remove_columns=pairs.column_names)
    trainer = _recording(Trainer)(
        model,
        TrainingArguments(**training.arguments(folder)),
        train_dataset=data,
        eval_dataset=data.select(range(training.batch)),
        data_collator=DataCollatorForLanguageModeling(tokenizer) if masks else None,
        processing_class=tokenizer,
    )
    trainer.train()
    losses = trainer.losses[:]
    torch.manual_seed(9)  # of the masks
    evaluated = trainer.evaluate()["eval_loss"]
    trainer.save_model(folder)
    texts = pairs["anchor"][:20]
    batch = dict(tokenizer(texts, truncation=True, padding=True, return_tensors="pt"))
    with torch.no_grad():
        outputs, saved = (
            trained.eval()(**batch).logits for trained in (model, cls.from_pretrained(folder))
        )
    if masks:
        real = batch["attention_mask"].bool()
        outputs, saved = outputs[real][:50], saved[real][:50]
    return Trained(losses, outputs.tolist(), saved.tolist(), evaluated, _detours(model))


def _recording(cls: type) -> Any:
    """Return a subclass of a trainer that keeps unrounded losses as `losses`."""

    class Recording(cls):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **settings: Any) -> None:
            self.losses: list[float] = []
            super().__init__(*args, **settings)

        def compute_loss(self, *args: Any, **settings: Any) -> Any:
            found = super().compute_loss(*args, **settings)
            loss = found[0] if isinstance(found, tuple) else found
            self.losses.append(float(loss.detach()))
            return found

    return Recording


@contextmanager
def _counted_tokens() -> Iterator[list[int]]:
    """Collect the number of tokens of each packed call inside."""
    encode = Twins.encode
    counts: list[int] = []

    def counting(self: Twins, live: Any, tokens: Any, *rest: Any, **settings: Any) -> Any:
        counts.append(len(tokens))
        return encode(self, live, tokens, *rest, **settings)

    Twins.encode = counting  # type: ignore[method-assign]
    try:
        yield counts
    finally:
        Twins.encode = encode  # type: ignore[method-assign]


def _detours(model: Any) -> list[str]:
    logs = [getattr(module.forward, "detours", None) for module in model.modules()]
    return [reason for log in logs if log is not None for reason in log.counts]


def main() -> None:
    model, pairs = map(Path, sys.argv[1:])
    found = {
        name: [asdict(train(training, model, pairs, packed=packed)) for packed in (False, True)]
        for name, training in TRAININGS.items()
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
