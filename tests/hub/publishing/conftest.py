"""A run with three checkpoints and a log, shards with held-out text, and graphs made in no time."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import mmbert.hub.publishing.publish as publish
import mmbert.hub.publishing.revision as revision
from mmbert.checkpoint.listing import step_of
from mmbert.hub.for_libraries.int8_graph import VectorComparison
from mmbert.hub.models import build_model
from mmbert.hub.output_folder import atomic_folder, write_json
from mmbert.hub.publishing.publication import Publication, identity_of
from mmbert.hub.publishing.revision import Contents
from mmbert.hub.verification import Difference
from tests.support.corpora import write_corpus
from tests.support.written_runs import Run, save_run

STEPS = (10, 20, 30)
NAMES = [f"step-{step:08d}" for step in STEPS]
FILES = {
    "1_Pooling/config.json", "README.md", "config.json", "config_sentence_transformers.json",
    "model.safetensors", "modules.json", "onnx/model.onnx", "onnx/model_int8.onnx",
    "provenance.json", "publication.json", "sentence_bert_config.json", "tokenizer.json",
    "tokenizer_config.json",
}  # fmt: skip


@pytest.fixture(scope="session")
def shards(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two languages with 110 held-out documents each, of the run's tokenizer."""
    root = tmp_path_factory.mktemp("shards") / "shards"
    lengths = [5 + number % 60 for number in range(109)] + [700]
    write_corpus(
        root,
        {"text": {"eng_Latn": [20] * 3, "swh_Latn": [20] * 3}},
        contexts=(256,),
        heldout=lengths,
        vocabulary_size=run.model.config.vocab_size,
    )
    for file in (run.folder / "tokenizer").glob("*.json"):
        if file.name != "description.json":  # another fingerprint, but the same tokenizer
            shutil.copy(file, root / "tokenizer")
    return root


@pytest.fixture
def long_run(run: Run, tmp_path: Path) -> Path:
    """A run folder with a checkpoint at each of STEPS, each of other weights."""
    folder, model = tmp_path / "run", build_model(run.model.config, run.model.named_parameters())
    for step in STEPS:
        torch.nn.init.constant_(model.decoder.bias, step / 100)
        save_run(folder, model, step=step)
    lines = [{"event": "start", "step": 0}]
    for step in STEPS:
        languages = {"eng_Latn": 4.0 - step / 100}
        lines += [
            {"step": step, "phase": "last", "loss": 5.0 - step / 100},
            {"event": "held-out", "step": step, "overall": 4.5 - step / 100,
             "tiers": {"first": 4.25}, "languages": languages},
        ]  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "log.jsonl").write_text(text)
    return folder


class QuickGraphs:
    """Stands for the exporters of graphs, which take seconds: what they found, and their calls."""

    def __init__(self) -> None:
        self.mean_cosine = 0.99
        self.written: list[str] = []

    def write_encoder_graph(self, folder: Path, out: Path) -> None:
        out.parent.mkdir()
        out.write_bytes(b"graph of " + (folder / "model.safetensors").read_bytes()[-64:])
        self.written.append(out.name)

    def compare_hidden_states(self, *arguments: object) -> Difference:
        return Difference(1e-6, 3.0)

    def write_int8_graph(self, float32: Path, out: Path) -> None:
        out.write_bytes(b"int8 " + float32.read_bytes())

    def compare_vectors(
        self, path: Path, ours: object, model: object, documents: list[torch.Tensor], pad: int
    ) -> VectorComparison:
        assert path.is_file()
        return VectorComparison(len(documents), self.mean_cosine, self.mean_cosine - 0.5)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> QuickGraphs:
    graphs = QuickGraphs()
    for name in (
        "write_encoder_graph", "compare_hidden_states", "write_int8_graph", "compare_vectors",
    ):  # fmt: skip
        monkeypatch.setattr(revision, name, getattr(graphs, name))
    return graphs


@pytest.fixture
def instant(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Revisions without a model, for what does not depend on their contents; those written."""
    written: list[str] = []

    def write_revision(
        out: Path, checkpoint: Path, contents: Contents, say: Callable[[str], None]
    ) -> Publication:
        step = step_of(checkpoint)
        difference = Difference(1e-6, 3.0)
        publication = Publication(
            writer="test", recipe="tiny-run", step=step, checkpoint=identity_of(checkpoint),
            logits=difference, hidden_states=difference, int8=None, left_out={},
            losses=contents.losses.at(step),
        )  # fmt: skip
        with atomic_folder(out) as folder:
            for name in FILES:
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_text(f"{name}: this one is `{out.name}`")
            write_json(folder / "publication.json", publication.model_dump())
        written.append(out.name)
        return publication

    monkeypatch.setattr(publish, "write_revision", write_revision)
    return written
