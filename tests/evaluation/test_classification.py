"""Fine-tuning: a simple task is learned, accuracies are correct, bad files are named."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mmbert.errors import UserError
from mmbert.evaluation.classification import (
    Classifier,
    FineTuningSettings,
    fine_tune,
    read_examples,
    render_scores,
)
from mmbert.evaluation.loaded_model import LoadedModel
from tests.support.written_runs import Run

FILLER = ("the", "old", "town", "and", "a", "child", "by", "with", "rain", "und", "der", "stadt")
TOPICS = {"water": ["river", "bridge", "bridges"], "reading": ["book", "reads", "window"]}
SETTINGS = FineTuningSettings(epochs=4, learning_rate=1e-3, batch_size=8)


def write_examples(path: Path, count: int, seed: int) -> Path:
    generator = random.Random(seed)
    lines = []
    for _ in range(count):
        label = generator.choice(sorted(TOPICS))
        words = generator.choices(FILLER, k=6) + generator.choices(TOPICS[label], k=2)
        generator.shuffle(words)
        lines.append(f"{label}\t{' '.join(words)}\n")
    path.write_text("".join(lines))
    return path


def test_it_learns(run: Run, tmp_path: Path) -> None:
    train = write_examples(tmp_path / "train.tsv", 120, 0)
    test = write_examples(tmp_path / "test.tsv", 60, 1)
    model = LoadedModel(run.checkpoint)
    before = {name: tensor.clone() for name, tensor in model.module.model.named_parameters()}
    (score,) = fine_tune(model, train, [test], SETTINGS)
    assert score.examples == 60
    assert score.accuracy > 0.9 > 0.7 > score.majority
    after = dict(model.module.model.named_parameters())
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert render_scores([score]).row_count == 1


def test_the_same_seed_gives_the_same_score_and_labels_matter(run: Run, tmp_path: Path) -> None:
    train = write_examples(tmp_path / "train.tsv", 60, 0)
    test = write_examples(tmp_path / "test.tsv", 40, 1)
    first, again = (
        fine_tune(LoadedModel(run.checkpoint), train, [test], SETTINGS) for _ in range(2)
    )
    assert first == again
    lines = [line.partition("\t")[2] for line in train.read_text().splitlines()]
    generator = random.Random(5)
    nonsense = [f"{generator.choice(sorted(TOPICS))}\t{text}\n" for text in lines]
    (tmp_path / "nonsense.tsv").write_text("".join(nonsense))
    (score,) = fine_tune(LoadedModel(run.checkpoint), tmp_path / "nonsense.tsv", [test], SETTINGS)
    assert score.accuracy < first[0].accuracy


def test_gradients_reach_every_weight_of_the_encoder(run: Run) -> None:
    model = LoadedModel(run.checkpoint)
    classifier = Classifier(model, 3).requires_grad_(True)
    documents = [model.encode("the old town"), model.encode("ein kind liest am fenster")]
    logits = classifier(documents)
    assert logits.shape == (2, 3)
    logits.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in classifier.parameters())
    alone = torch.cat([classifier([document]) for document in documents])
    assert torch.allclose(logits, alone, atol=1e-5)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("water river\n", "train.tsv:1: expected label, tab and text"),
        ("", "no examples"),
        ("a\tb\n", "one label"),
    ],
)
def test_bad_training_files(run: Run, tmp_path: Path, content: str, says: str) -> None:
    train, test = tmp_path / "train.tsv", write_examples(tmp_path / "test.tsv", 5, 1)
    train.write_text(content)
    with pytest.raises(UserError, match=says):
        fine_tune(LoadedModel(run.checkpoint), train, [test], SETTINGS)


def test_a_label_that_training_has_not_seen(run: Run, tmp_path: Path) -> None:
    train = write_examples(tmp_path / "train.tsv", 20, 0)
    test = tmp_path / "test.tsv"
    test.write_text("fire\tthe old town\n")
    assert read_examples(test)[0].label == "fire"
    with pytest.raises(UserError, match="label 'fire'"):
        fine_tune(LoadedModel(run.checkpoint), train, [test], SETTINGS)


def test_nothing_to_score_is_said_before_training(run: Run, tmp_path: Path) -> None:
    train = write_examples(tmp_path / "train.tsv", 20, 0)
    with pytest.raises(UserError, match="no file to score"):
        fine_tune(LoadedModel(run.checkpoint), train, [], SETTINGS)


def test_long_documents_are_cut_and_short_ones_are_not(run: Run, tmp_path: Path) -> None:
    """Files that differ only beyond `max_length` score the same."""
    train = write_examples(tmp_path / "train.tsv", 40, 0)
    test = write_examples(tmp_path / "test.tsv", 20, 1)
    settings = replace(SETTINGS, epochs=1, max_length=12)
    scores = []
    for ending in ("river bridge", "book window"):
        texts = [
            f"{line} {' '.join(FILLER)} {ending * 300}"
            for line in test.read_text().split("\n")[:-1]
        ]
        (tmp_path / "long.tsv").write_text("".join(f"{text}\n\n" for text in texts))
        (score,) = fine_tune(LoadedModel(run.checkpoint), train, [tmp_path / "long.tsv"], settings)
        scores.append(score)
    assert scores[0] == scores[1]
    model = LoadedModel(run.checkpoint)
    assert len(model.encode(" ".join(FILLER) * 300)) == model.model.context
    assert model.encode("", max_length=12).tolist() == [2, 1]
