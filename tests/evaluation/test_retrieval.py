"""Cross-lingual retrieval on synthetic aligned files."""

import random
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer
from typer.testing import CliRunner

from mmbert.cli import app
from mmbert.errors import UserError
from mmbert.evaluation.loaded_model import LoadedModel
from mmbert.evaluation.retrieval import (
    nearest_neighbor_accuracy,
    read_aligned,
    render_retrieval,
    retrieval_accuracies,
)
from tests.support.written_runs import Run

WORDS = (
    "river", "town", "bridge", "child", "book", "window", "rain",
    "stadt", "fluss", "kind", "regen", "fenster", "mto", "mji",
)  # fmt: skip


def write(path: Path, texts: dict[str, str]) -> Path:
    path.write_text("".join(f"{key}\t{text}\n" for key, text in texts.items()))
    return path


def sentences(count: int) -> dict[str, str]:
    generator = random.Random(0)
    return {f"v{n}": " ".join(generator.choices(WORDS, k=12)) for n in range(count)}


@pytest.fixture(scope="module")
def model(run: Run) -> LoadedModel:
    return LoadedModel(run.checkpoint)


def test_sentence_vectors_are_mean_hidden_states(model: LoadedModel, exported: Path) -> None:
    texts = ["the old town", "a child reads a book by the window while the rain falls", "mto"]
    vectors = model.sentence_vectors(texts)
    theirs, tokenizer = AutoModel.from_pretrained(exported), AutoTokenizer.from_pretrained(exported)
    for text, vector in zip(texts, vectors, strict=True):
        with torch.no_grad():
            hidden = theirs(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        assert torch.allclose(vector, hidden.mean(0), atol=1e-5)


def test_vectors_do_not_depend_on_what_shares_their_row(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = list(sentences(20).values())
    together = model.sentence_vectors(texts)
    monkeypatch.setattr("mmbert.evaluation.loaded_model.ROW_TOKENS", 1)
    assert torch.allclose(together, model.sentence_vectors(texts), atol=1e-5)


def test_a_file_finds_itself_and_not_a_shuffled_one(model: LoadedModel, tmp_path: Path) -> None:
    texts = sentences(60)
    one = write(tmp_path / "eng.tsv", texts)
    same = write(tmp_path / "copy.tsv", dict(sorted(texts.items(), reverse=True)))
    values = list(texts.values())
    wrong = dict(zip(texts, values[1:] + values[:1], strict=True))
    shuffled = write(tmp_path / "shuffled.tsv", wrong)
    found = retrieval_accuracies(model, [one, same, shuffled])
    assert [entry.language for entry in found] == ["copy", "shuffled"]
    assert (found[0].forward, found[0].backward, found[0].sentences) == (1.0, 1.0, 60)
    assert found[1].forward == found[1].backward == 0.0
    assert "copy" in str(render_retrieval("eng", found).columns[0]._cells)


def test_saved_padding_and_truncation_do_not_count(exported: Path, tmp_path: Path) -> None:
    """A tokenizer that was once called with both keeps them in its file."""
    padded = tmp_path / "padded"
    shutil.copytree(exported, padded)
    tokenizer = AutoTokenizer.from_pretrained(padded)
    tokenizer(["the town"], padding="max_length", max_length=8, truncation=True)
    tokenizer.save_pretrained(padded)
    texts = ["the town", "the river runs past the old town and under seven bridges"]
    vectors = [LoadedModel(folder).sentence_vectors(texts) for folder in (exported, padded)]
    assert torch.equal(*vectors)
    file = write(tmp_path / "a.tsv", sentences(5))
    arguments = ["evaluate", str(padded), "--retrieval", str(file), "--retrieval", str(file)]
    said = CliRunner().invoke(app, arguments)
    assert said.exit_code == 0, said.output
    assert said.output.count("tokenizer.json: saved padding and truncation set aside") == 1


def test_translations_that_share_some_words_are_found_more_often_than_by_chance(
    model: LoadedModel, tmp_path: Path
) -> None:
    texts = sentences(50)
    half = {
        key: " ".join([*text.split()[:7], "und", "der", "la", "ville"])
        for key, text in texts.items()
    }
    files = [write(tmp_path / "a.tsv", texts), write(tmp_path / "b.tsv", half)]
    (entry,) = retrieval_accuracies(model, files)
    assert entry.chance == 0.02
    assert min(entry.forward, entry.backward) > 5 * entry.chance


def test_only_shared_identifiers_count(model: LoadedModel, tmp_path: Path) -> None:
    texts = sentences(10)
    fewer = {key: text for key, text in texts.items() if key in ("v1", "v4", "v7")}
    files = [write(tmp_path / "a.tsv", texts), write(tmp_path / "b.tsv", {**fewer, "x": "town"})]
    (entry,) = retrieval_accuracies(model, files)
    assert entry.sentences == 3
    (entry,) = retrieval_accuracies(model, files, max_sentences=2)
    assert entry.sentences == 2


def test_nearest_by_hand() -> None:
    first = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.7, 0.7]])
    second = torch.tensor([[1.0, 0.0], [0.7, 0.7], [0.0, 1.0]])
    # 0 → 0 is correct; 1 → 2 and 2 → 1 are wrong.
    assert nearest_neighbor_accuracy(first, second) == pytest.approx((1 / 3, 1 / 3))
    # Two equal vectors: both find the first.
    twice = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert nearest_neighbor_accuracy(torch.eye(2)[[0, 0, 1]], twice) == pytest.approx(
        (2 / 3, 2 / 3)
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("v1 no tab here\n", r"a.tsv:1: expected identifier, tab and text"),
        ("v1\ttext\n\nv2\t\n", r"a.tsv:3"),
        ("v1\ttext\nv1\tagain\n", r"a.tsv:2: duplicate identifier 'v1'"),
        (b"v1\t\xff\xfe\n", r"cannot read .*a.tsv"),
    ],
)
def test_malformed_files(tmp_path: Path, content: str | bytes, says: str) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=says):
        read_aligned(path)


def test_line_separators_within_a_text_stay_in_it(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("v1\tone\u2028two\r\nv2\tthree\n", newline="")
    assert read_aligned(path) == {"v1": "one\u2028two", "v2": "three"}


def test_pairs_that_cannot_be_compared(model: LoadedModel, tmp_path: Path) -> None:
    one = write(tmp_path / "a.tsv", {"v1": "town", "v2": "river"})
    other = write(tmp_path / "b.tsv", {"v1": "mji", "v9": "mto"})
    with pytest.raises(UserError, match="share 1 identifiers"):
        retrieval_accuracies(model, [one, other])
    with pytest.raises(UserError, match="at least two"):
        retrieval_accuracies(model, [one])
