"""After a power loss in preprocessing, languages are complete or invisible, and it resumes."""

import os
from pathlib import Path

import numpy as np
import pytest

from mmbert.data.shards.manifest import (
    MANIFEST_NAME,
    Shard,
    read_manifest,
    verify_files,
)
from mmbert.data.shards.tokenizer_description import read_tokenizer_description
from mmbert.files import checksum_file
from mmbert_prep.executor.storage import read_json
from mmbert_prep.executor.workers import SingleProcess
from mmbert_prep.pipeline import preprocess_sources
from mmbert_prep.shards.intermediate import DOCUMENT_DTYPE, read_unit_report
from tests.durability.replay import Files, Replay, write
from tests.support.texts import documents, run, settings, tree
from tests.support.tokenizers import gemma_like_tokenizer, save_tokenizer
from tests.support.write_recorder import Recorder

LANGUAGE = "swh_Latn"
SUMMARY = "text/summary.json"
# Folders that the command empties at the start: their state after a crash is irrelevant. The lock
# would be that of this process, which lives.
SCRATCH = ("claims", "progress", "lock.json", ".lock.json.guard")
# `make test` resumes from one in this many of the states that a crash may leave.
EVERY = 50


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a language of twelve documents, one of ten that replaces it, and a tokenizer."""
    folder = tmp_path_factory.mktemp("inputs")
    for name, count in (("text", 12), ("other", 10)):
        (folder / name).mkdir()
        texts = "\n\n".join(documents(LANGUAGE, count))
        (folder / name / f"{LANGUAGE}.txt").write_text(texts, "utf-8")
    save_tokenizer(folder / "tokenizer", gemma_like_tokenizer())
    return folder


def preprocess(inputs: Path, output: Path, text: str = "text") -> None:
    """Run the command."""
    same = {"tokenizer": inputs / "tokenizer", "vocabulary_size": None}
    if text == "sources":  # of which the second one has two texts of its own
        each = [settings(inputs / n, output, source=n, **same) for n in ("other", "text")]
        preprocess_sources(SingleProcess(), each)
    else:
        run(inputs / text, output, replace=text == "other", **same)


def record(inputs: Path, output: Path, before: Files, text: str) -> Replay:
    """Record a run of the command on an existing output folder."""
    write(before, output)
    recorder = Recorder(output, scratch=SCRATCH)
    with pytest.MonkeyPatch.context() as patch:
        recorder.patch(patch)
        preprocess(inputs, output, text)
    return Replay(before, recorder.events, recorder.contents())


def check_what_is_seen(output: Path) -> None:
    """Assert that everything visible to a reader is complete."""
    for path in output.glob(f"text/*/{MANIFEST_NAME}"):
        verify_files(path.parent, read_manifest(path.parent))
    if (output / "tokenizer").exists():
        read_tokenizer_description(output / "tokenizer")
        assert {path.name for path in (output / "tokenizer").iterdir()} > {"tokenizer.json"}
        for path in (output / "tokenizer").iterdir():
            read_json(path)


def check_what_is_done(output: Path) -> None:
    """Assert that everything a later start considers done is complete."""
    work = output / ".preprocess" / "text"
    for path in (work / "plan.json", work / "languages.json"):
        if path.exists():
            read_json(path)
    for path in work.glob("units-*/*.json"):
        for section in read_unit_report(path.parent, path.stem).sections:
            end = (section.first_document + section.documents) * DOCUMENT_DTYPE.itemsize
            assert path.with_suffix(".documents").stat().st_size >= end
            assert path.with_suffix(".tokens").stat().st_size >= 2 * section.tokens
    selection = work / "merge" / f"{LANGUAGE}.json"
    if selection.exists():
        stored = read_json(selection)
        kept = sum(documents for documents, _, _ in stored["totals"].values())
        dropped = sum(stored["dropped"].values())
        assert np.load(selection.with_suffix(".npy")).size == kept + dropped
    for path in (work / "merge").glob(f"{LANGUAGE}.*-00000.json"):
        check_shard(output, Shard.model_validate(read_json(path)))


def check_shard(output: Path, shard: Shard) -> None:
    """Assert that shards reported as done are complete, before or after becoming visible."""
    staged = output / ".preprocess" / "text" / "staging" / LANGUAGE
    commit_marker = output / ".preprocess" / "text" / "receipts" / f"{LANGUAGE}.json"
    if not staged.exists():
        manifest = output / "text" / LANGUAGE / MANIFEST_NAME
        assert manifest.read_bytes() == commit_marker.read_bytes()
        return
    for suffix, entry in (("bin", shard.files.bin), ("idx", shard.files.idx)):
        assert checksum_file(staged / f"{shard.name}.{suffix}") == entry.xxh3_128


def go_through(inputs: Path, folder: Path, replay: Replay, text: str, every: int) -> None:
    """Check all states, and rerun the command in some: the result is as without a crash."""
    expected = tree(folder / "out")
    number = 0
    for number, (_, files) in enumerate(replay.crashes(), 1):
        output = write(files, folder / f"crash-{number}")
        check_what_is_seen(output)
        if files.get(SUMMARY) != expected[SUMMARY]:  # else all is done, and what is left goes
            check_what_is_done(output)
        if number % every == 0:
            preprocess(inputs, output, text)
            assert tree(output) == expected
    assert number > every


def crashes_of(
    inputs: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, text: str, every: int
) -> None:
    """The same text is preprocessed again, or another one replaces it, or both are sources."""
    before: Files = {}
    if text == "other":
        preprocess(inputs, folder / "before")
        before = dict(tree(folder / "before"))
    replay = record(inputs, folder / "out", before, text)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # milliseconds each
    go_through(inputs, folder, replay, text, every)


@pytest.mark.parametrize("text", ["text", "other", "sources"])
def test_every_crash_leaves_what_the_same_command_goes_on_from(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    crashes_of(inputs, tmp_path, monkeypatch, text, EVERY)


@pytest.mark.long
@pytest.mark.parametrize("text", ["text", "other", "sources"])
def test_from_every_crash_the_same_command_goes_on(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    crashes_of(inputs, tmp_path, monkeypatch, text, 1)
