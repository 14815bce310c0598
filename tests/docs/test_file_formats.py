"""docs/file-formats.md: its readers read what mmbert reads, its tables have every key."""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmbert.checkpoint.format import RunState
from mmbert.checkpoint.reader import CheckpointReader
from mmbert.data.shards.continuation_index import part_bounds, read_continuation_index
from mmbert.data.shards.corpus import open_corpus
from mmbert.parallel.parameter_spec import ParameterSpec
from tests.checkpoint.test_reader import ONES, write_checkpoint
from tests.docs.blocks import blocks
from tests.support.environment import ROOT

PAGE = ROOT / "docs" / "file-formats.md"
KEPT = ROOT / "tests" / "fixtures" / "kept"
CHECKPOINTS = sorted(KEPT.glob("run*/checkpoints/step-*"))
_TABLE = re.compile(r"<!-- keys: (?P<of>\S+?)(?: \+ (?P<more>\w+))? -->\n\n(?P<rows>(?:\|.*\n)+)")


def readers() -> dict[str, Any]:
    """Return the functions that the page's Python blocks define."""
    names: dict[str, Any] = {}
    for block in blocks(PAGE):
        if "executed by tests/docs/test_file_formats.py" in block.detail:
            assert "mmbert" not in block.text, f"{block} imports this package"
            exec(compile(block.text, str(block), "exec"), names)
    return names


def tables() -> dict[str, tuple[set[str], set[str]]]:
    """Return (keys in the first column, keys beside the model's fields) of each table by model."""
    found = {}
    for match in _TABLE.finditer(PAGE.read_text(encoding="utf-8")):
        rows = match["rows"].splitlines()[2:]
        keys = [key for row in rows for key in re.findall(r"`(\w+)`", row.split("|")[1])]
        assert len(keys) == len(set(keys)), match["of"]
        found[match["of"]] = (set(keys), {match["more"]} - {None})
    return found


def fields(path: str) -> set[str]:
    """Return the fields of a pydantic model or a TypedDict, given its dotted path."""
    module, _, name = path.rpartition(".")
    model = getattr(importlib.import_module(module), name)
    return set(getattr(model, "model_fields", None) or model.__annotations__)


def log_lines() -> list[dict[str, Any]]:
    """Return the lines of the kept runs' logs."""
    logs = KEPT.glob("run*/log.jsonl")
    return [json.loads(line) for log in logs for line in log.read_text().splitlines()]


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_the_reader_of_documents_reads_what_mmbert_reads(split: str) -> None:
    read_document = readers()["read_document"]
    corpus = open_corpus(KEPT / "shards")
    compared = 0
    for component in corpus.components:
        for number in range(component.split(split).documents):  # type: ignore[arg-type]
            ours = corpus.document(component, split, number)  # type: ignore[arg-type]
            theirs = read_document(component.folder, split, number)
            assert theirs.dtype == ours.dtype
            np.testing.assert_array_equal(theirs, ours)
            compared += 1
    assert compared > 10


def test_parts_of_documents_are_as_described() -> None:
    """The page's rule for the ends of parts, and its numbering of pieces."""
    corpus = open_corpus(KEPT / "shards")
    component = corpus.component("text", "deu_Latn")
    capacity = 64 - 2
    index = read_continuation_index(
        component.folder / "pieces-64.npy", component.continuations(64), 27
    )
    stored = np.load(component.folder / "pieces-64.npy")
    np.testing.assert_array_equal(stored, index.entries)
    for document, part in stored.tolist():
        length = len(corpus.document(component, "train", document))
        parts = -(-length // capacity)
        start, end = part * capacity, min(length, (part + 1) * capacity)
        last = length - (parts - 1) * capacity
        if 2 * last < capacity:
            middle = (parts - 2) * capacity + -(-(capacity + last) // 2)
            start, end = (
                (middle if part == parts - 1 else start),
                (middle if part == parts - 2 else end),
            )
        assert (start, end) == tuple(int(bound) for bound in part_bounds(length, 64, part))


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=lambda path: "/".join(path.parts[-3::2]))
def test_the_reader_of_weights_reads_what_mmbert_reads(checkpoint: Path) -> None:
    read_tensor = readers()["read_tensor"]
    with CheckpointReader(checkpoint) as reader:
        for name in reader.index.parameters:
            for state in ("master", "exp_avg", "exp_avg_sq"):
                theirs = read_tensor(checkpoint, name, state)
                np.testing.assert_array_equal(theirs, reader.full(name, state).numpy())


def test_the_reader_of_weights_reads_split_and_sliced_weights(tmp_path: Path) -> None:
    """Two tensor ranks, three partitions: fused rows, columns, uneven rows, replicas."""
    specs = [
        ParameterSpec((12, 4), ONES, name="fused", split_dimension=0, fused_sizes=(4, 4, 4)),
        ParameterSpec((4, 6), ONES, name="columns", split_dimension=1),
        ParameterSpec((7, 3), ONES, name="uneven", split_dimension=0, require_even=False),
        ParameterSpec((5,), ONES, name="replica"),
    ]
    checkpoint = write_checkpoint(tmp_path, specs, tensor=2, cuts=[[0.3] * 4, [0.8] * 4])
    read_tensor = readers()["read_tensor"]
    for spec in specs:
        expected = np.arange(np.prod(spec.full_shape)).reshape(spec.full_shape)
        np.testing.assert_array_equal(read_tensor(checkpoint, spec.name), expected)


def test_tables_have_every_key() -> None:
    found = tables()
    assert len(found) >= 20
    for model, (keys, more) in found.items():
        if model != "log.jsonl":
            assert keys == fields(model) | more, model


ADDED = {
    "mmbert.checkpoint.format.Index": {"row_states"},
    "mmbert.data.loading.data_state.DataState": {"checksums", "indexes"},
    "mmbert.training.metrics.results.PhaseResult": {
        "tokens_elsewhere",
        "objective",
        "predicted_share",
        "held_out_causal_start",
        "held_out_causal_end",
    },
    "mmbert_prep.shards.summary.Summary": {
        "duplicates_of",
        "language_names",
        "unused_overrides",
        "input_bytes",
        "unread_bytes",
        "unnamed_bytes",
        "losses",
    },
    "mmbert.data.shards.manifest.Manifest": {
        "unread_bytes",
        "duplicates_of",
        "near_duplicates",
    },
}
"""Keys that the files of earlier versions do not have."""


def test_tables_have_every_key_of_files_of_earlier_versions() -> None:
    found = tables()
    index = json.loads((CHECKPOINTS[0] / "index.json").read_text())
    results = json.loads((KEPT / "run" / "results.json").read_text())
    summary = json.loads((KEPT / "shards" / "text" / "summary.json").read_text())
    manifest = json.loads((KEPT / "shards" / "text" / "deu_Latn" / "manifest.json").read_text())
    for model, value in {
        "mmbert.checkpoint.format.Index": index,
        "mmbert.checkpoint.format.RunState": index["state"],
        "mmbert.data.loading.data_state.DataState": index["state"]["data"],
        "mmbert.training.metrics.results.Results": results,
        "mmbert.training.metrics.results.PhaseResult": results["phases"][0],
        "mmbert_prep.shards.summary.Summary": {"folders_without_language": [], **summary},
        "mmbert.data.shards.manifest.Manifest": manifest,
    }.items():
        assert set(value) == found[model][0] - ADDED.get(model, set()), model
    assert set(RunState.model_fields) == set(index["state"])


def test_the_log_table_has_the_keys_of_a_log() -> None:
    records = [line for line in log_lines() if "event" not in line]
    # The kept log is older.
    since_then = {
        "unix_time",
        "own_work_seconds_per_row",
        "waiting_seconds_per_row",
        "own_work_max_over_median",
        "own_work_max_rank",
    }
    keys = {key for record in records for key in record}
    assert keys | since_then == tables()["log.jsonl"][0]


def test_the_page_names_every_event_of_the_log() -> None:
    """The kinds that the code logs; kept runs have had few of them."""
    sources = (ROOT / "src" / "mmbert" / "training").rglob("*.py")
    calls = r"(?:loggers\.event|self\._event|_log_bad_step)\(\s*\"([a-z -]+)\""
    kinds = {kind for path in sources for kind in re.findall(calls, path.read_text())}
    page = PAGE.read_text(encoding="utf-8")
    named = set(
        re.findall(r"`([a-z -]+)`", page[page.index("Events:") : page.index("**records**")])
    )
    assert {line["event"] for line in log_lines() if "event" in line} <= kinds
    assert kinds == named
