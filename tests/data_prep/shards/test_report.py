"""The report per language: it counts every document of the input once, by outcome."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from mmbert.cli import app
from mmbert.errors import UserError
from mmbert_prep.shards.report import report_rows, write_report
from tests.data_prep.check_report import count_documents, differences
from tests.support.texts import documents, json_lines, rows, run, write_corpus


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """All formats, with duplicate, short, empty and contaminated documents, and a language without
    any kept document."""
    folder = tmp_path / "corpus"
    write_corpus(folder)
    swahili = documents("swh_Latn", 30)
    odd = [swahili[3], swahili[4], "x", "   ", "\x00\x01", "\ufeff"]
    (folder / "more" / "swh_Latn.jsonl").write_bytes(json_lines(rows("swh_Latn", odd)))
    (folder / "lug_Latn.txt").write_text("a\n\nb\n\nb\n", "utf-8")
    return folder


def report(shards: Path, path: Path) -> dict[str, dict[str, str]]:
    write_report(shards, path, Console(file=io.StringIO()))
    with open(path, encoding="utf-8", newline="") as file:
        return {row["language"]: row for row in csv.DictReader(file, delimiter="\t")}


def test_sums_match_the_input(corpus: Path, tmp_path: Path) -> None:
    evaluation = tmp_path / "evaluation.txt"
    evaluation.write_text(documents("eng_Latn", 120)[7], "utf-8")
    run(
        corpus,
        tmp_path / "out",
        minimum_characters=2,
        maximum_tokens_per_language=1500,
        decontaminate=(evaluation,),
        decontaminate_ngram=4,
    )
    found = report(tmp_path / "out", tmp_path / "report.tsv")
    assert differences(corpus, tmp_path / "report.tsv") == []
    assert {name: int(row["documents_read"]) for name, row in found.items()} == {
        "eng_Latn": 120,
        "rus_Cyrl": 90,
        "hin_Deva": 60,
        "cmn_Hani": 40,
        "swh_Latn": 36,
        "yor_Latn": 20,
        "lug_Latn": 3,
    }
    swahili = {name: int(found["swh_Latn"][f"rejected_{name}"]) for name in ("duplicate", "empty")}
    assert swahili == {"duplicate": 2, "empty": 3}
    assert found["swh_Latn"]["rejected_too_short"] == "1"
    assert found["lug_Latn"]["rejected_too_short"] == "3"
    assert found["lug_Latn"]["train_documents"] == "0"
    assert int(found["eng_Latn"]["rejected_contaminated"]) >= 1
    assert int(found["eng_Latn"]["rejected_over_token_cap"]) > 0
    assert all(int(row["train_tokens"]) <= 1500 for row in found.values())


def test_a_difference_is_found(corpus: Path, tmp_path: Path) -> None:
    run(corpus, tmp_path / "out")
    report(tmp_path / "out", tmp_path / "report.tsv")
    (corpus / "yor_Latn.txt").write_text("one more\n\nand another", "utf-8")
    (wrong,) = differences(corpus, tmp_path / "report.tsv")
    assert wrong == "yor_Latn: the input has 2 documents, the report 20"


def test_the_independent_count(corpus: Path) -> None:
    assert count_documents(corpus)["eng_Latn"] == 120
    assert count_documents(corpus)["swh_Latn"] == 36


def test_several_sources_and_the_command(corpus: Path, tmp_path: Path) -> None:
    run(corpus / "web", tmp_path / "out", vocabulary_size=600)
    run(corpus / "more", tmp_path / "out", vocabulary_size=600, source="more")
    header, found = report_rows(tmp_path / "out")
    counts = {(row[0], row[1]): row[header.index("documents_read")] for row in found}
    assert counts["text", "eng_Latn"] == counts["more", "eng_Latn"] == 60
    path = tmp_path / "report.csv"
    arguments = ["inspect", str(tmp_path / "out"), "--report", str(path)]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "5 languages: documents read 276" in result.output
    assert path.read_text().splitlines()[0] == ",".join(header)


def test_what_cannot_be_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished source"):
        report_rows(tmp_path)
    with pytest.raises(UserError, match="unknown report format"):
        write_report(tmp_path, tmp_path / "report.xlsx", Console())
