"""Several sources in one call: one tokenizer, no text twice, nothing remade."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mmbert.data.shards.indexed_dataset import IndexedDataset
from mmbert.data.shards.manifest import MANIFEST_NAME, read_manifest
from mmbert.errors import ArgumentError, ResumeError, TextError, UserError
from mmbert.recipe import load_recipe
from mmbert_prep import cli
from mmbert_prep.executor.workers import SingleProcess
from mmbert_prep.pipeline import preprocess_sources
from mmbert_prep.readers import RejectReason
from mmbert_prep.shards.languages import LanguageMerger
from mmbert_prep.shards.summary import Summary
from mmbert_prep.shards.verify import verify_source
from mmbert_prep.source_options import named_inputs
from mmbert_prep.tokenization.encoders import open_encoder
from tests.support.texts import ROOT, command_line, documents, json_lines, run, settings, tree

SWAHILI, YORUBA = documents("swh_Latn", 160), documents("yor_Latn", 60)
TEXTS = {
    "web": {"swh_Latn": SWAHILI[:90], "yor_Latn": YORUBA[:30]},
    "books": {"swh_Latn": [*SWAHILI[80:120], *SWAHILI[80:85]], "yor_Latn": YORUBA[20:]},
    "news": {"swh_Latn": [*SWAHILI[:5], *SWAHILI[110:]], "yor_Latn": YORUBA[:4]},
}


@pytest.fixture(autouse=True, scope="module")
def no_fsync() -> Iterator[None]:
    """No test here loses power; each call takes milliseconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def write(folder: Path, texts: dict[str, dict[str, list[str]]] = TEXTS) -> Path:
    """Write a folder for each source, with a file for each language."""
    for source, languages in texts.items():
        (folder / source).mkdir(parents=True)
        for language, found in languages.items():
            path = folder / source / f"{language}.jsonl"
            path.write_bytes(json_lines({"text": text} for text in found))
    return folder


def make(
    folder: Path, output: Path, sources: Sequence[str] = tuple(TEXTS), **changes: Any
) -> list[Summary]:
    """Run the pipeline for several sources in this process."""
    each = [settings(folder / name, output, source=name, **changes) for name in sources]
    return preprocess_sources(SingleProcess(), each)


def texts_in(output: Path, source: str) -> dict[tuple[str, str], list[str]]:
    """Return (language, split) -> decoded documents of a source."""
    encoder = open_encoder(output / "tokenizer")
    found: dict[tuple[str, str], list[str]] = {}
    for path in (output / source).glob(f"*/{MANIFEST_NAME}"):
        manifest = read_manifest(path.parent)
        for split in ("train", "heldout"):
            shards = [
                IndexedDataset(path.parent / shard.name)
                for shard in getattr(manifest, split).shards
            ]
            found[manifest.language, split] = [
                encoder.decode(shard.document(number))
                for shard in shards
                for number in range(len(shard))
            ]
    return found


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def shards(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("shards")
    make(corpus, output)
    return output


def test_the_first_source_keeps_a_text(shards: Path, corpus: Path) -> None:
    for language, texts in (("swh_Latn", SWAHILI), ("yor_Latn", YORUBA)):
        kept: list[str] = []
        for source, languages in TEXTS.items():
            found = texts_in(shards, source)
            own = found.get((language, "train"), []) + found.get((language, "heldout"), [])
            assert set(own) == set(languages[language]) - set(kept), (source, language)
            kept += own
        assert sorted(kept) == sorted(texts)


def test_duplicates_are_counted_by_source(shards: Path) -> None:
    manifest = read_manifest(shards / "news" / "swh_Latn")
    assert manifest.duplicates_of == {"web": 5, "books": 10}
    assert manifest.rejected == {"duplicate_of_source": 15}
    books = read_manifest(shards / "books" / "swh_Latn")
    assert books.rejected == {"duplicate_of_source": 15}, "copies of such a text, too"
    assert b"duplicates_of" not in (shards / "web" / "swh_Latn" / MANIFEST_NAME).read_bytes()
    summaries = {
        name: Summary.model_validate_json((shards / name / "summary.json").read_bytes())
        for name in TEXTS
    }
    assert {name: summary.duplicates_of for name, summary in summaries.items()} == {
        "web": {},
        "books": {"web": 25},
        "news": {"web": 9, "books": 10},
    }
    # All documents of this language are in another source.
    assert summaries["news"].without_text == {"yor_Latn": {RejectReason.DUPLICATE_OF_SOURCE: 4}}
    for summary in summaries.values():
        assert (
            sum(summary.rejected().values())
            + sum(
                language.train_documents + language.heldout_documents
                for language in summary.languages.values()
            )
            == (summary.totals()["documents_read"])
        )


def test_shards_agree_with_the_text(shards: Path, corpus: Path) -> None:
    for source in TEXTS:
        found = verify_source(shards / source, str(corpus / source))
        assert {language: check.errors for language, check in found.items() if check.errors} == {}


def test_passes_over_hashes_change_nothing(
    shards: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmbert_prep.shards.earlier_sources._HASHES_PER_PASS", 17)
    make(corpus, tmp_path)
    assert tree(tmp_path) == tree(shards)


def test_the_same_bytes_for_any_number_of_workers(
    shards: Path, corpus: Path, tmp_path: Path
) -> None:
    words = [word for name in TEXTS for word in ("--source", f"{name}={corpus / name}")]
    result = command_line("--output", tmp_path, *words, "--workers", 3)
    assert result.returncode == 0, result.stderr
    assert "3 sources: 264 documents read" in result.stderr
    assert tree(tmp_path) == tree(shards)


def test_one_tokenizer_for_all(shards: Path, corpus: Path, tmp_path: Path) -> None:
    """It is the one of a source that has all the text."""
    run(corpus, tmp_path)
    assert tree(tmp_path / "tokenizer") == tree(shards / "tokenizer")


@pytest.mark.parametrize("cap", [None, 1500])
def test_a_source_is_added_to_a_finished_one(
    cap: int | None, shards: Path, corpus: Path, tmp_path: Path
) -> None:
    """The finished one stays; the others are as if all had been made at once."""
    same = {"tokenizer": shards / "tokenizer", "vocabulary_size": None}
    same["maximum_tokens_per_language"] = cap
    make(corpus, tmp_path / "at once", **same)
    output = tmp_path / "added"
    run(corpus / "web", output, source="web", **same)
    before = {path: path.stat().st_mtime_ns for path in (output / "web").rglob("*")}
    make(corpus, output, ("web", "books"), **same)
    make(corpus, output, **same)
    assert tree(output) == tree(tmp_path / "at once")
    assert before == {path: path.stat().st_mtime_ns for path in (output / "web").rglob("*")}
    assert not list(output.glob(".preprocess/*/"))


def test_what_a_token_cap_leaves_out_is_taken_from_a_later_source(
    shards: Path, tmp_path: Path
) -> None:
    write(tmp_path, {"a": {"swh_Latn": SWAHILI}, "b": {"swh_Latn": SWAHILI}})
    make(
        tmp_path, tmp_path / "out", ("a", "b"), maximum_tokens_per_language=2000,
        tokenizer=shards / "tokenizer", vocabulary_size=None, heldout_share=0.0,
    )  # fmt: skip
    first, second = (
        set(texts_in(tmp_path / "out", name)["swh_Latn", "train"]) for name in ("a", "b")
    )
    assert first
    assert second
    assert not first & second


@pytest.mark.parametrize("stop", ["select", "publish"])
def test_an_interrupted_run_goes_on(
    stop: str, shards: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    step = getattr(LanguageMerger, stop)

    def interrupted(merger: LanguageMerger) -> object:
        calls.append(merger._settings.source)
        if calls[-1] == "books":
            raise KeyboardInterrupt
        return step(merger)

    with monkeypatch.context() as patch:
        patch.setattr(LanguageMerger, stop, interrupted)
        with pytest.raises(KeyboardInterrupt):
            make(corpus, tmp_path)
    assert calls == ["web", "books"]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "web").rglob("*")}
    assert tmp_path / "web" / "summary.json" in before
    encoded = {path: path.stat().st_mtime_ns for path in tmp_path.glob(".preprocess/*/units*/*")}
    seen: dict[Path, int] = {}

    def look(merger: LanguageMerger) -> object:
        for path in tmp_path.glob(".preprocess/*/units*/*"):
            seen[path] = path.stat().st_mtime_ns
        return step(merger)

    with monkeypatch.context() as patch:
        patch.setattr(LanguageMerger, stop, look)
        make(corpus, tmp_path)
    assert seen == encoded, "no unit is encoded again"
    assert tree(tmp_path) == tree(shards)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "web").rglob("*")}


def test_other_text_of_an_earlier_source_remakes_the_later_ones(
    shards: Path, tmp_path: Path
) -> None:
    folder, output = write(tmp_path / "in"), tmp_path / "out"
    same = {"tokenizer": shards / "tokenizer", "vocabulary_size": None}
    make(folder, output, ("web", "books"), **same)
    (folder / "web" / "swh_Latn.jsonl").write_bytes(json_lines({"text": t} for t in SWAHILI[:3]))
    with pytest.raises(ResumeError, match=r"source web: .*out/web was made from other input"):
        make(folder, output, ("web", "books"), **same)
    web = settings(folder / "web", output, source="web", replace=True, **same)
    preprocess_sources(SingleProcess(), [web])
    with pytest.raises(ResumeError, match=r"source books: .*the earlier source web has changed"):
        make(folder, output, ("web", "books"), **same)
    make(folder, output, ("web", "books"), replace=True, **same)
    make(folder, tmp_path / "anew", ("web", "books"), **same)
    assert tree(output) == tree(tmp_path / "anew")
    # Of books alone, the texts that web has are kept.
    with pytest.raises(
        ResumeError, match=r"books was made from .*earlier sources were web, are now none"
    ):
        run(folder / "books", output, source="books", **same)


@pytest.mark.parametrize("deduplicate", [True, False])
def test_no_source_trains_on_what_another_holds_out(
    deduplicate: bool, shards: Path, tmp_path: Path
) -> None:
    """Also where a language is so small that all its documents would be held out."""
    chance = random.Random(3)
    texts: dict[str, dict[str, list[str]]] = {"a": {}, "b": {}, "c": {}}
    for number in range(14):
        language = f"qa{chr(97 + number)}_Latn"
        pool = documents(language, 4)
        for languages in texts.values():
            if chosen := chance.sample(pool, chance.randint(0, 3)):
                languages[language] = chosen
    write(tmp_path, texts)
    summaries = make(
        tmp_path, tmp_path / "out", tuple(texts), heldout_share=0.5, deduplicate=deduplicate,
        tokenizer=shards / "tokenizer", vocabulary_size=None,
    )  # fmt: skip
    trained: set[tuple[str, str]] = set()
    held: set[tuple[str, str]] = set()
    stored = 0
    for name in texts:
        for (language, split), found in texts_in(tmp_path / "out", name).items():
            stored += len(found)
            (trained if split == "train" else held).update((language, text) for text in found)
    assert not trained & held
    every = [(language, t) for each in texts.values() for language in each for t in each[language]]
    assert trained | held == set(every)
    assert stored == len(set(every) if deduplicate else every)
    assert sum(summary.totals()["heldout_documents"] for summary in summaries) > 5


def test_a_source_without_texts_of_its_own_is_refused(shards: Path, tmp_path: Path) -> None:
    write(tmp_path, {"a": {"swh_Latn": SWAHILI[:9]}, "b": {"swh_Latn": SWAHILI[2:9]}})
    with pytest.raises(TextError, match=r"source b: earlier sources have all .*\(a 7\)"):
        make(
            tmp_path, tmp_path / "out", ("a", "b"), tokenizer=shards / "tokenizer",
            vocabulary_size=None,
        )  # fmt: skip
    assert not (tmp_path / "out" / "b").exists()


def test_errors_name_the_source(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(TextError, match=r"^source nothing: input .* does not exist"):
        make(corpus, tmp_path / "out", ("web", "nothing"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "a=x", "--source", "b"], "--source b: a name, = and a folder are needed"),
        (["--source", "a="], "--source a=: a name"),
        (["--source", "a=x", "--source", "a=y"], "the source a is given 2 times"),
        (["--source", "a=x", "--input", "y"], "--source NAME=FOLDER excludes --input"),
        (["--input", "x", "--source", "a", "--source", "b"], "--input is the text of one source"),
        (["--sources-in", "x"], "--sources-in takes the sources from a recipe"),
        (["--sources-in", "x", "--input", "y"], "--sources-in excludes --input"),
        (["--source", "../a=x"], "--source: String should match pattern"),
        (["--source", "web=x", "--recipe", "demo"], "not web"),
    ],
)
def test_wrong_options_are_refused(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["--output", str(tmp_path / "out"), *arguments])
    assert isinstance(result.exception, ArgumentError)
    assert message in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_sources_of_a_recipe(tmp_path: Path) -> None:
    recipe = load_recipe(ROOT / "src" / "mmbert" / "recipes" / "mmbert-base.yaml")
    names = [source.name for source in recipe.data.sources]
    for name in reversed(names):
        (tmp_path / name).mkdir()
    found = named_inputs([], None, tmp_path, recipe)
    assert found == [(source.folder, str(tmp_path / source.name)) for source in recipe.data.sources]
    pairs = [f"{names[1]}=hf:some/name:en", f"{names[0]}=a=b"]
    assert named_inputs(pairs, None, None, recipe)[1][1] == "a=b"
    shutil.rmtree(tmp_path / names[-1])
    with pytest.raises(UserError, match=f"no folder {names[-1]},"):
        named_inputs([], None, tmp_path, recipe)


def test_sources_in_folders_called_as_in_the_recipe(tmp_path: Path) -> None:
    recipe = load_recipe(ROOT / "src" / "mmbert" / "recipes" / "mmbert-base.yaml")
    names = [source.name for source in recipe.data.sources]
    write(tmp_path / "in", {name: {"swh_Latn": SWAHILI[:2]} for name in (*names, "other")})
    options = ["--sources-in", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(cli.app, [*options, "--recipe", "mmbert-base", "--dry-run"])
    assert result.exit_code == 0, result.output
    for name in names:
        assert f"source {name}: {tmp_path / 'in' / name}" in result.output
    assert f"not read, no source of the recipe: {tmp_path / 'in' / 'other'}\n" in result.output
