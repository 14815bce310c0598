"""ONNX graphs of a revision: what they compute, what they hold, and what is not published."""

from pathlib import Path

import onnx_ir
import pytest
import torch

import mmbert.hub.for_libraries.onnx_graphs as onnx_graphs
from mmbert.hub.for_libraries.int8_graph import write_int8_graph
from mmbert.hub.for_libraries.onnx_graphs import (
    GraphMismatchError,
    GraphSession,
    compare_hidden_states,
    require_onnx_packages,
)
from mmbert.hub.model_source import CheckpointSource
from mmbert.hub.models import pack
from mmbert.hub.publishing.local_folder import LocalFolder
from mmbert.hub.publishing.publication import parse_publication
from mmbert.hub.publishing.publish import PublishOptions, plan_publication, publish
from tests.hub.test_export_users import snippets
from tests.support.written_runs import Run, documents

FLOAT32 = Path("onnx/model.onnx")


of_real_graphs = pytest.mark.long
"""Of tests with `published`, which traces a model for the exporter."""


@pytest.fixture(scope="module")
def published(run: Run, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run, published with real graphs."""
    place = LocalFolder(tmp_path_factory.mktemp("published") / "out")
    publish(plan_publication(run.folder, place, PublishOptions(shards)), place, print)
    return place.root / "main"


@of_real_graphs
def test_hidden_states_are_ours_in_batches_of_any_shape(run: Run, published: Path) -> None:
    """Padded and alone, of other sizes than traced, and longer than the local window of 16."""
    texts = documents(run)
    bases = run.recipe.phases[-1].rotary_bases
    ours = run.model.hidden_states(pack(texts), rotary_bases=bases)
    expected = ours.split([len(text) for text in texts])
    session = GraphSession(published / FLOAT32)
    for chosen in ([0, 1, 2, 3], [1], [3, 0], [2]):
        found = session.hidden_states([texts[number] for number in chosen], 0)
        for number, theirs in zip(chosen, found, strict=True):
            assert theirs.shape == expected[number].shape
            assert float((theirs - expected[number]).abs().max()) <= 1e-5 * float(ours.abs().max())


@of_real_graphs
def test_a_wrong_graph_is_found(run: Run, published: Path, tmp_path: Path) -> None:
    graph = onnx_ir.load(published / FLOAT32)
    scale = graph.graph.initializers["body.final_norm.weight"]
    values = scale.const_value.numpy().copy()
    values[3] *= 1.001
    scale.const_value = onnx_ir.tensor(values)
    onnx_ir.save(graph, tmp_path / "wrong.onnx")
    model = CheckpointSource(run.checkpoint).model
    right = compare_hidden_states(published / FLOAT32, run.model, model, 0)
    assert right.relative < 1e-5
    with pytest.raises(GraphMismatchError, match="differ from the trained model"):
        compare_hidden_states(tmp_path / "wrong.onnx", run.model, model, 0)


@of_real_graphs
def test_the_int8_graph_is_smaller_and_near(published: Path) -> None:
    found = parse_publication((published / "publication.json").read_bytes(), "it")
    assert found.int8 is not None
    assert found.int8.texts == 200
    assert 0.98 < found.int8.lowest_cosine < found.int8.mean_cosine < 1
    assert found.left_out == {}
    float32, int8 = published / FLOAT32, published / "onnx" / "model_int8.onnx"
    assert int8.stat().st_size < 0.5 * float32.stat().st_size
    kinds = {initializer.dtype for initializer in onnx_ir.load(int8).graph.initializers.values()}
    assert onnx_ir.DataType.INT8 in kinds


@of_real_graphs
def test_graphs_hold_no_paths_and_named_axes(published: Path) -> None:
    for name in ("model.onnx", "model_int8.onnx"):
        content = (published / "onnx" / name).read_bytes()
        for words in (b"site-packages", b"stack_trace", b".py", str(Path.home()).encode() + b"/"):
            assert words not in content
    graph = onnx_ir.load(published / FLOAT32).graph
    shapes = {value.name: str(value.shape) for value in (*graph.inputs, *graph.outputs)}
    assert shapes == {
        "input_ids": "[batch,sequence]",
        "attention_mask": "[batch,sequence]",
        "last_hidden_state": "[batch,sequence,64]",
    }


@of_real_graphs
def test_weights_beyond_a_protobuf_file_lie_beside_the_graph(
    run: Run, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_graphs, "_LARGEST_FILE", 1000)
    onnx_graphs._save(onnx_ir.load(published / FLOAT32), tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx_data").stat().st_size > 10 * 64 * 64 * 4
    text = documents(run)[1]
    (one,) = GraphSession(tmp_path / "model.onnx").hidden_states([text], 0)
    (other,) = GraphSession(published / FLOAT32).hidden_states([text], 0)
    assert torch.equal(one, other)
    write_int8_graph(tmp_path / "model.onnx", tmp_path / "int8.onnx")
    assert GraphSession(tmp_path / "int8.onnx").hidden_states([text], 0)[0].shape == one.shape


@of_real_graphs
def test_the_cards_program_gives_the_vectors_of_sentence_transformers(published: Path) -> None:
    from sentence_transformers import SentenceTransformer

    names: dict[str, object] = {}
    program = next(text for text in snippets(published / "README.md") if "numpy" in text)
    exec(program, names)
    theirs = SentenceTransformer(str(published), device="cpu").encode(["one text", "another"])
    assert abs(names["vectors"] - theirs).max() < 1e-5


def test_graphs_leave_the_log_as_it_was() -> None:
    import logging

    assert logging.root.manager.disable == 0
    with onnx_graphs.quiet():
        logging.warning("hidden")
    assert logging.root.manager.disable == 0


def test_missing_packages_are_said_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mmbert.errors import PackageError

    require_onnx_packages()
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(PackageError, match="need onnxscript, which") as caught:
        plan_publication(tmp_path / "no run", LocalFolder(tmp_path), PublishOptions(None))
    assert "pip install 'mmbert-train[publish]'" in caught.value.remedy
