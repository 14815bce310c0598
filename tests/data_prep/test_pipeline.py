"""The pipeline from files to shards: no document is lost, and the bytes are reproducible."""

from __future__ import annotations

import inspect
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mmbert.data.shards.continuation_index import read_continuation_index
from mmbert.data.shards.indexed_dataset import IndexedDataset
from mmbert.data.shards.manifest import read_manifest, verify_files
from mmbert.errors import UserError
from mmbert.recipe import load_recipe
from mmbert_prep import cli
from mmbert_prep.executor.work_units import plan_work_units
from mmbert_prep.readers.discovery import discover
from mmbert_prep.settings import PrepSettings
from mmbert_prep.shards.intermediate import IntermediateWriter
from mmbert_prep.source_options import source_folder
from mmbert_prep.tokenization.encoders import open_encoder
from tests.support.texts import (
    ROOT,
    command_line,
    documents,
    environment,
    run,
    settings,
    tree,
    write_corpus,
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    return folder


@pytest.fixture(scope="module")
def shards(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("shards")
    run(corpus, output)
    return output


def _texts(shards: Path, language: str) -> dict[str, list[str]]:
    encoder = open_encoder(shards / "tokenizer")
    folder = shards / "text" / language
    manifest = read_manifest(folder)
    found = {}
    for split in ("train", "heldout"):
        found[split] = [
            encoder.decode(dataset.document(number))
            for shard in getattr(manifest, split).shards
            for dataset in [IndexedDataset(folder / shard.name)]
            for number in range(len(dataset))
        ]
    return found


def test_every_document_of_every_format_arrives(shards: Path) -> None:
    expected = {"eng_Latn": 120, "rus_Cyrl": 90, "hin_Deva": 60}
    expected |= {"cmn_Hani": 40, "swh_Latn": 30, "yor_Latn": 20}
    assert {path.name for path in (shards / "text").iterdir() if path.is_dir()} == set(expected)
    for language, count in expected.items():
        found = _texts(shards, language)
        assert sorted(found["train"] + found["heldout"]) == sorted(documents(language, count))
        manifest = read_manifest(shards / "text" / language)
        verify_files(shards / "text" / language, manifest)
        assert manifest.documents_read == count
        sizes = sum(len(text.encode()) for text in found["train"])
        assert manifest.train.bytes == sizes
        assert manifest.rejected == {}


def test_piece_indexes_list_the_long_documents(shards: Path) -> None:
    folder = shards / "text" / "eng_Latn"
    manifest = read_manifest(folder)
    lengths = IndexedDataset(folder / "train-00000").lengths
    for context in (16, 64):
        entry = manifest.train.pieces[context]
        path = folder / entry.file
        index = read_continuation_index(path, entry.continuations, len(lengths)).entries
        long_documents = np.flatnonzero(lengths > context - 2)
        assert set(index["document"]) == set(long_documents)
    assert manifest.train.pieces[16].continuations > manifest.train.pieces[64].continuations


def test_the_same_bytes_for_any_number_of_workers(
    corpus: Path, shards: Path, tmp_path: Path
) -> None:
    result = command_line("--input", corpus, "--output", tmp_path / "three", "--workers", 3)
    assert result.returncode == 0, result.stderr
    assert tree(tmp_path / "three") == tree(shards)


def test_the_same_bytes_whatever_is_kept_in_memory(
    corpus: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Units that exceed the buffer of a worker have several sections; copying takes many steps."""
    flushed: dict[IntermediateWriter, int] = {}
    flush = IntermediateWriter._flush

    def counted(writer: IntermediateWriter) -> None:
        flushed[writer] = flushed.get(writer, 0) + 1
        flush(writer)

    monkeypatch.setattr(IntermediateWriter, "_flush", counted)
    monkeypatch.setattr("mmbert_prep.shards.encode._BATCH_DOCUMENTS", 5)
    monkeypatch.setattr("mmbert_prep.shards.intermediate._FLUSH_TOKENS", 100)
    monkeypatch.setattr("mmbert_prep.shards.merge._DOCUMENTS_PER_COPY", 2)
    monkeypatch.setattr("mmbert_prep.shards.deduplicate_and_split._HASHES_PER_PASS", 11)
    run(corpus, tmp_path / "out")
    assert max(flushed.values()) > 3
    assert tree(tmp_path / "out") == tree(shards)


def test_a_second_run_has_nothing_to_do(corpus: Path, shards: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in shards.rglob("*") if path.is_file()}
    run(corpus, shards)
    after = {path: path.stat().st_mtime_ns for path in shards.rglob("*") if path.is_file()}
    assert {k: v for k, v in after.items() if ".preprocess" not in k.parts} == {
        k: v for k, v in before.items() if ".preprocess" not in k.parts
    }


def test_other_settings_into_a_finished_source_are_refused(corpus: Path, shards: Path) -> None:
    with pytest.raises(UserError, match=r"deduplicate was True, is now False.*\n.*--replace"):
        run(corpus, shards, deduplicate=False)


def test_replace_makes_the_source_again(tmp_path: Path) -> None:
    first, second, output = tmp_path / "a", tmp_path / "b", tmp_path / "out"
    for folder, languages in ((first, ("swh_Latn", "yor_Latn")), (second, ("swh_Latn",))):
        folder.mkdir()
        for language in languages:
            text = "\n\n".join(documents(language, 80 if folder is second else 60))
            (folder / f"{language}.txt").write_text(text)
    run(first, output, vocabulary_size=400)
    tokenizer = tree(output / "tokenizer")
    with pytest.raises(UserError, match="the input has changed"):
        run(second, output, vocabulary_size=400)
    run(second, output, vocabulary_size=400, replace=True)
    assert [path.name for path in (output / "text").glob("*_*")] == ["swh_Latn"]
    assert read_manifest(output / "text" / "swh_Latn").documents_read == 80
    assert tree(output / "tokenizer") == tokenizer, "other sources depend on it"


def test_two_sources_share_a_tokenizer(corpus: Path, tmp_path: Path) -> None:
    run(corpus / "more", tmp_path / "out")
    run(corpus / "yor_Latn.txt", tmp_path / "out", source="second", vocabulary_size=None)
    first = read_manifest(tmp_path / "out" / "text" / "rus_Cyrl")
    second = read_manifest(tmp_path / "out" / "second" / "yor_Latn")
    assert first.tokenizer == second.tokenizer
    assert second.source == "second"
    with pytest.raises(UserError, match="vocabulary of 1000, not 900"):
        run(corpus / "columns.jsonl", tmp_path / "out", source="third", vocabulary_size=900)


def test_small_shards_hold_the_same_documents(corpus: Path, shards: Path, tmp_path: Path) -> None:
    run(corpus, tmp_path / "out", shard_tokens=1000)
    manifest = read_manifest(tmp_path / "out" / "text" / "eng_Latn")
    assert len(manifest.train.shards) > 2
    assert all(shard.tokens >= 1000 for shard in manifest.train.shards[:-1])
    assert _texts(tmp_path / "out", "eng_Latn") == _texts(shards, "eng_Latn")
    entry = manifest.train.pieces[16]
    folder = tmp_path / "out" / "text" / "eng_Latn"
    index = read_continuation_index(
        folder / entry.file, entry.continuations, manifest.train.documents
    ).entries
    lengths = np.concatenate(
        [IndexedDataset(folder / shard.name).lengths for shard in manifest.train.shards]
    )
    assert set(index["document"]) == set(np.flatnonzero(lengths > 14))


def test_summary_adds_up(corpus: Path, shards: Path) -> None:
    summary = json.loads((shards / "text" / "summary.json").read_text())
    assert summary["ignored_files"] == {"unknown kind of file '.md'": ["README.md"]}
    for language in summary["languages"].values():
        kept = language["train_documents"] + language["heldout_documents"]
        assert language["documents_read"] == kept + sum(language["rejected"].values())
        assert 1 < language["bytes_per_token"] < 10
        assert language["tokens_per_word"] >= 1


def test_a_dry_run_writes_nothing(corpus: Path, tmp_path: Path) -> None:
    result = command_line("--input", corpus, "--output", tmp_path / "out", "--dry-run")
    assert result.returncode == 0, result.stderr
    assert "rus_Cyrl" in result.stdout
    assert "README.md" in result.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "missing"], "missing does not exist"),
        (["--input", "{empty}"], "no text to read in"),
        (["--input", "{corpus}", "--heldout-fraction", "2"], "--heldout-fraction: "),
        (["--input", "{corpus}", "--maximum-bytes", "many"], "'many' is not a quantity"),
        ([], "no text is named"),
        (["--input", "{corpus}", "--tokenizer", "missing.model"], "missing.model cannot be read"),
        (
            ["--input", "{corpus}", "--vocab-size", "60000"],
            "too little text for a vocabulary of 60000",
        ),
        (["--input", "{corpus}", "--vocab-size", "301"], "a vocabulary of 301 is too small"),
    ],
)
def test_wrong_input_ends_with_status_2(
    arguments: list[str], message: str, corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    filled = [text.format(corpus=corpus, empty=tmp_path / "empty") for text in arguments]
    result = command_line("--output", tmp_path / "out", "--workers", 1, *filled)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "→" in result.stderr
    assert "Traceback" not in result.stderr


def test_contexts_vocabulary_and_source_from_a_recipe(corpus: Path, tmp_path: Path) -> None:
    recipe = ROOT / "src" / "mmbert" / "recipes" / "demo.yaml"
    parsed = load_recipe(recipe)
    data = [sys.executable, "launch/preprocess.py", "--input", str(corpus), "--workers", "1"]
    result = subprocess.run(
        [*data, "--output", str(tmp_path), "--recipe", str(recipe), "--vocab-size", "900"],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=ROOT,
    )
    assert result.returncode == 0, result.stderr
    source = parsed.data.sources[0]
    manifest = read_manifest(tmp_path / (source.path or source.name) / "eng_Latn")
    assert set(manifest.train.pieces) == {phase.context for phase in parsed.phases}
    result = subprocess.run(
        [*data, "--output", str(tmp_path), "--recipe", str(recipe), "--source", "other"],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=ROOT,
    )
    assert result.returncode == 2
    assert "not other" in result.stderr


def test_the_source_that_a_recipe_means() -> None:
    recipe = load_recipe(ROOT / "src" / "mmbert" / "recipes" / "mmbert-base.yaml")
    assert source_folder(recipe, None) == "fineweb2", "the only multilingual one"
    assert source_folder(recipe, "starcoder") == "starcoder"
    with pytest.raises(UserError, match="not nothing"):
        source_folder(recipe, "nothing")


def test_options_are_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each option is a field, and none of them changes a default."""
    given: list[PrepSettings] = []
    monkeypatch.setattr(cli, "run_local", lambda program, workers, chosen: given.extend(chosen))
    arguments = ["--input", "text", "--output", str(tmp_path), "--workers", "1"]
    assert CliRunner().invoke(cli.app, arguments).exception is None
    assert given == [PrepSettings(input="text", output=tmp_path)]
    parameters = set(inspect.signature(cli.command).parameters)
    others = {"context", "recipe", "dry_run", "sources_in"}
    assert parameters - others == set(PrepSettings.model_fields) - {"earlier_sources"}


def test_an_installed_package_starts_as_a_module(tmp_path: Path) -> None:
    (tmp_path / "swh_Latn.txt").write_text("some text")
    options = ["--input", "swh_Latn.txt", "--output", "out", "--dry-run"]
    result = subprocess.run(
        [sys.executable, "-m", "mmbert_prep", *options],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert "swh_Latn" in result.stdout


def test_former_spellings_of_options_are_accepted(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[PrepSettings] = []
    monkeypatch.setattr(cli, "run_local", lambda program, workers, chosen: given.extend(chosen))
    for names in (
        ("--accelerator", "--heldout-share", "--maximum-rejected-share"),
        ("--fast-encoder", "--heldout-fraction", "--maximum-rejected-fraction"),
    ):
        options = zip(names, ("none", "0.2", "0.3"), strict=True)
        arguments = ["--input", str(corpus), "--output", str(tmp_path), *itertools.chain(*options)]
        result = CliRunner().invoke(cli.app, arguments)
        assert result.exception is None, result.output
    assert given[0] == given[1]
    chosen = given[0]
    assert (chosen.fast_encoder, chosen.heldout_share) == ("none", 0.2)
    assert chosen.maximum_rejected_fraction == 0.3
    help_text = CliRunner().invoke(cli.app, ["--help"], env={"COLUMNS": "200"}).output
    assert "--fast-encoder" in help_text
    assert "--accelerator" not in help_text
    assert "-share" not in help_text


def test_fingerprints_of_finished_outputs_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fingerprint was computed before the fields of work units were renamed."""
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for name in ("swh_Latn.txt", "yor_Latn.jsonl"):
        Path("in", name).write_text("some text\n\n" * 1000)
        os.utime(Path("in", name), (1, 1))
    chosen = settings("in", Path("out"))
    plan = plan_work_units(discover(chosen), chosen)
    assert len(plan.units) == 8
    assert plan.fingerprint == "6b16a8c0dd7eeecfbc5c998140ab94f5ff19676328ba142f2f2684d4119bcd56"


def test_settings_that_decide_are_told_apart_from_others(tmp_path: Path) -> None:
    base = settings("a", tmp_path).output_settings()
    assert (
        settings("b", tmp_path / "other", workers=7, fast_encoder="none").output_settings() == base
    )
    assert settings("a", tmp_path, minimum_characters=2).output_settings() != base
