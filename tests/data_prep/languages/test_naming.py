"""Languages of files, rows and whole inputs as people name them, through the program."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from mmbert.errors import ArgumentError, UserError
from mmbert_prep.cli import app
from mmbert_prep.languages.option import language_option
from mmbert_prep.languages.overrides import LanguageMap
from mmbert_prep.languages.overrides_file import read_language_map
from mmbert_prep.readers import plan_ranges, read_range
from mmbert_prep.readers.discovery import Discovery, discover
from tests.support.mds_shards import write_mds
from tests.support.texts import documents, json_lines, run, settings, tree

LINE = b'{"text": "a document"}\n'


def write(folder: Path, *names: str, content: bytes = LINE) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def found(folder: Path, **keys: str) -> Discovery:
    overrides = LanguageMap(keys=keys, lines=dict.fromkeys(keys, 1), file="own.txt")
    return discover(settings(folder, folder / "out", language_map=overrides))


def languages(folder: Path, **keys: str) -> dict[str, str | None]:
    return {
        str(Path(file.path).relative_to(folder)): file.language
        for file in found(folder, **keys).files
    }


SPELLINGS = {
    "en": "eng_Latn", "eng": "eng_Latn", "EN": "eng_Latn", "en_US": "eng_Latn",
    "eng_latn": "eng_Latn", "eng-Latn": "eng_Latn", "English": "eng_Latn", "pt-BR": "por_Latn",
    "zh": "cmn_Hani", "zh-Hans": "cmn_Hani", "zh-Hant": "cmn_Hani", "cmn_Hans": "cmn_Hani",
    "sr": None, "xx": None,
}  # fmt: skip


def test_spellings_of_languages(tmp_path: Path) -> None:
    write(tmp_path, *(f"{name}/data.jsonl" for name in SPELLINGS))
    assert languages(tmp_path) == {f"{name}/data.jsonl": key for name, key in SPELLINGS.items()}
    said = "\n".join(found(tmp_path).about_languages())
    assert "en → eng_Latn (1 file)" in said
    assert "zh-Hant → cmn_Hani (1 file; FineWeb2 has Hant in Hani)" in said
    assert "one language each: cmn_Hani (cmn_Hans, zh, zh-Hans, zh-Hant), eng_Latn (EN, " in said
    assert "'sr: srp_Cyrl' or 'sr: srp_Latn'" in said
    assert "no language: xx (1 file): no language has this code or name, the nearest is" in said
    given = languages(tmp_path, sr="srp_Latn", xx="-", zh="yue_Hani")
    assert given["sr/data.jsonl"] == "srp_Latn"
    assert given["xx/data.jsonl"] is None
    assert given["zh/data.jsonl"] == "yue_Hani"
    assert "xx" not in "\n".join(found(tmp_path, xx="-").about_languages())


def test_keys_that_the_user_keeps(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("cmn_Hans: cmn_Hans")
    keys = read_language_map(tmp_path / "own.txt").keys
    rows = json_lines([{"text": "a", "language": "cmn", "language_script": "Hans"}])
    write(tmp_path / "in", "cmn_Hans/0.jsonl", "web/1.jsonl", content=rows)
    options = settings(tmp_path / "in", tmp_path, language_map=LanguageMap(keys=keys))
    ranges = [part for file in discover(options).files for part in plan_ranges(file, 9999, options)]
    read = [document.language for part in ranges for document in read_range(part, options)]
    assert read == ["cmn_Hans", "cmn_Hans"]
    assert discover(options).about_languages() == []


def test_keys_are_read_as_they_always_were(tmp_path: Path) -> None:
    write(
        tmp_path,
        "swh_Latn/train/it/0.jsonl",
        "deu_Latn_train-sampled/en/0.jsonl",
        "yor_Latn.jsonl",
        "no.jsonl",
    )
    assert languages(tmp_path) == {
        "deu_Latn_train-sampled/en/0.jsonl": "deu_Latn",
        "no.jsonl": None,
        "swh_Latn/train/it/0.jsonl": "swh_Latn",
        "yor_Latn.jsonl": "yor_Latn",
    }
    assert found(tmp_path).about_languages() == []


def test_levels_and_names_of_files(tmp_path: Path) -> None:
    write(
        tmp_path,
        "text/en/web/000.jsonl",
        "text/fr/web/000.jsonl",
        "text/it/books/new.jsonl",
        "wiki/sw.jsonl",
        "wiki/en.part-1.jsonl",
        "wiki/en.part-2.jsonl",
        "wiki/data-00000-of-00001.jsonl",
        "mixed/en/fr.jsonl",
    )
    assert languages(tmp_path) == {
        "mixed/en/fr.jsonl": None,
        "text/en/web/000.jsonl": "eng_Latn",
        "text/fr/web/000.jsonl": "fra_Latn",
        "text/it/books/new.jsonl": "ita_Latn",
        "wiki/data-00000-of-00001.jsonl": None,
        "wiki/en.part-1.jsonl": "eng_Latn",
        "wiki/en.part-2.jsonl": "eng_Latn",
        "wiki/sw.jsonl": "swh_Latn",
    }
    problems = {name: use.problem for name, use in found(tmp_path).names.items() if use.problem}
    assert problems["fr"] == "the path names several languages (fr is fra_Latn, en is eng_Latn)"


def test_the_folder_of_the_input(tmp_path: Path) -> None:
    write(tmp_path, "zh-Hans/0.jsonl", "en/0.jsonl")
    assert languages(tmp_path / "zh-Hans") == {"0.jsonl": "cmn_Hani"}
    assert languages(tmp_path / "en") == {"0.jsonl": None}
    assert found(tmp_path / "en").doubtful["en"].candidates == ("eng_Latn",)


def test_misspelt_keys_and_removed_documents(tmp_path: Path) -> None:
    write(tmp_path, "swa_Ltan/0.jsonl", "fra_Latn_removed/0.jsonl", "aaa_Latn/0.jsonl")
    assert languages(tmp_path) == {
        "aaa_Latn/0.jsonl": "aaa_Latn",
        "fra_Latn_removed/0.jsonl": None,
        "swa_Ltan/0.jsonl": None,
    }
    said = "\n".join(found(tmp_path).about_languages())
    assert "swa_Ltan (1 file): ISO 15924 has no script Ltan, the nearest is swh_Latn;" in said
    assert "fra_Latn_removed (1 file): FineWeb2 removed these documents;" in said


def test_keys_beside_columns_say_nothing(tmp_path: Path) -> None:
    """Columns give the languages of the other files: the summary is what it always was."""
    rows = [{"text": text, "language": "eng_Latn"} for text in documents("eng_Latn", 40)]
    names = ("eng_Latn", "fra_Latn", "deu_Latn", "web", "sr", "fra_Latn_removed", "no")
    corpus = write(
        tmp_path / "in", *(f"{name}/0.jsonl" for name in names), content=json_lines(rows)
    )
    assert "web" not in "\n".join(found(corpus).about_languages())
    run(corpus, tmp_path / "out", vocabulary_size=400)
    summary = json.loads((tmp_path / "out" / "text" / "summary.json").read_text())
    assert "language_names" not in summary
    write(corpus, "web/1.jsonl")  # a document that has none
    run(corpus, tmp_path / "more", vocabulary_size=400)
    summary = json.loads((tmp_path / "more" / "text" / "summary.json").read_text())
    assert {"web", "sr", "fra_Latn_removed", "no"} == set(summary["language_names"])


def test_nothing_to_read_tells_the_names(tmp_path: Path) -> None:
    write(tmp_path, "sr/0.txt")
    with pytest.raises(UserError, match=r"'sr: srp_Cyrl' or 'sr: srp_Latn'"):
        discover(settings(tmp_path, tmp_path / "out"))


def test_columns(tmp_path: Path) -> None:
    values = [
        ("en", None, "eng_Latn"), ("no", None, "nob_Latn"), ("pt-BR", "Latn", "por_Latn"),
        ("sw", "Latn", "swh_Latn"), ("swh", "Latn", "swh_Latn"), ("zh-Hant", "Hant", "cmn_Hani"),
        ("sr", "Cyrl", "srp_Cyrl"), ("sr", None, None), ("unknown", None, None),
        (["en"], None, None), (7, None, None), ("", "Latn", None), ("x" * 300, None, None),
        ("own", None, "srp_Latn"), ("out", None, None), ("swh_Latn", None, "swh_Latn"),
    ]  # fmt: skip
    rows = [
        {"text": "a", "language": code, "language_script": script} for code, script, _ in values
    ]
    (tmp_path / "web.jsonl").write_bytes(json_lines(rows))
    overrides = LanguageMap(keys={"own": "srp_Latn", "out": "-"})
    options = settings(tmp_path, tmp_path / "out", language_map=overrides)
    ranges = [part for file in discover(options).files for part in plan_ranges(file, 9999, options)]
    read = [document for part in ranges for document in read_range(part, options)]
    assert [document.language for document in read] == [key for _, _, key in values]
    written = [document.written_language for document in read]
    assert written[:6] == ["en", "no", "pt_Latn", "sw_Latn", None, "zh-Hant"]
    assert written[7:9] == ["sr", "unknown"]
    assert written[9:12] == [None] * 3
    assert len(written[12] or "") == 101
    assert written[13:] == ["own", "out", None]


def test_columns_of_tables_and_of_tokens(tmp_path: Path) -> None:
    table = pa.table({"text": ["a", "b"], "language": ["en", "sr"]})
    pq.write_table(table, tmp_path / "a.parquet")
    samples = [{"text": b"c", "language": b"pt_BR"}, {"text": b"d", "language": b"swh_Latn"}]
    write_mds(tmp_path / "b.mds", samples, {"text": "str", "language": "str"})
    options = settings(tmp_path, tmp_path / "out")
    ranges = [part for file in discover(options).files for part in plan_ranges(file, 9999, options)]
    read = [document for part in ranges for document in read_range(part, options)]
    assert [(document.language, document.written_language) for document in read] == [
        ("eng_Latn", "en"),
        (None, "sr"),
        ("por_Latn", "pt_BR"),
        ("swh_Latn", None),
    ]


def test_the_summary_has_each_name(tmp_path: Path) -> None:
    texts = documents("eng_Latn", 90)
    corpus = tmp_path / "in"
    for name, part in (("en", texts[:30]), ("eng_Latn", texts[30:60])):
        write(corpus, f"{name}/0.jsonl", content=json_lines([{"text": text} for text in part]))
    rows = [{"text": text, "language": "EN"} for text in texts[60:]]
    rows += [{"text": "lost", "language": "sr"}, {"text": "lost", "language": "sr"}]
    write(corpus, "web.jsonl", content=json_lines(rows))
    overrides = LanguageMap(keys={"unused": "eng_Latn"}, lines={"unused": 3}, file="own.txt")
    summary = run(corpus, tmp_path / "out", vocabulary_size=600, language_map=overrides)
    assert summary.languages["eng_Latn"].documents_read == 90
    stored = json.loads((tmp_path / "out" / "text" / "summary.json").read_text())
    assert stored["language_names"] == {
        "EN": {"language": "eng_Latn", "documents": 30},
        "en": {"language": "eng_Latn", "files": 1},
        "sr": {
            "documents": 2,
            "problem": "FineWeb2 has srp in several scripts",
            "candidates": ["srp_Cyrl", "srp_Latn"],
        },
    }
    assert stored["unused_overrides"] == ["own.txt, line 3: unused"]
    assert stored["settings"]["language_map"] == {"keys": {"unused": "eng_Latn"}}
    with pytest.raises(UserError, match=r"language_map was .*unused.*, is now None"):
        run(corpus, tmp_path / "out", vocabulary_size=600)


def test_spelling_does_not_change_a_byte_of_the_shards(tmp_path: Path) -> None:
    texts = [{"text": text} for text in documents("eng_Latn", 60)]
    outputs = []
    for name in ("eng_Latn", "eng"):
        corpus = write(tmp_path / name / "in", f"{name}/0.jsonl", content=json_lines(texts))
        run(corpus, tmp_path / name / "out", vocabulary_size=600)
        outputs.append(tree(tmp_path / name / "out"))
    changed = {path for path in outputs[0] if outputs[0][path] != outputs[1].get(path)}
    assert set(outputs[0]) == set(outputs[1])
    assert changed == {"text/summary.json"}
    first = json.loads(outputs[0]["text/summary.json"])
    assert not {"language_names", "unused_overrides"} & set(first)
    assert "language_map" not in first["settings"]


def test_the_file_of_overrides(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        "\ufeff# mine\n\nno: nob_Latn\n'sr': srp_Cyrl # both\nwiki: en\tarz_Arab\nx: -\n"
    )
    read = read_language_map(path)
    assert read.keys == {"no": "nob_Latn", "sr": "srp_Cyrl", "wiki: en": "arz_Arab", "x": "-"}
    assert list(read.keys) == sorted(read.keys), "summary.json has them in this order"
    assert read.line("sr") == "own.yaml, line 4: sr"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: eng_Latn\nb", "line 2: 'b' is not 'name: key'"),
        (": eng_Latn", "line 1: ': eng_Latn' is not 'name: key'"),
        ("a: eng_Latn\n\na: fra_Latn", "line 3: 'a' is already in line 1"),
        ("a: english", "line 1: 'english' is not a language key\n  → write 'a: eng_Latn'"),
        ("a: eng_latn", "'eng_latn' is not a language key\n  → write 'a: eng_Latn'"),
        ("a: swa_Ltan", "line 1: 'swa_Ltan' is not a language key\n  → write 'a: swh_Latn'"),
        ("a: sr", "write 'a: srp_Cyrl' or 'a: srp_Latn', or 'a: -' if it is no language"),
    ],
)
def test_lines_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "own.txt").write_text(text)
    with pytest.raises(ArgumentError) as error:
        read_language_map(tmp_path / "own.txt")
    assert message in str(error.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\xff"])
def test_a_file_of_overrides_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "own.txt").write_bytes(content)
    with pytest.raises(ArgumentError, match=r"own\.txt cannot be read"):
        read_language_map(tmp_path / "own.txt")


def test_the_option_of_the_whole_input(tmp_path: Path) -> None:
    assert language_option("pt_BR", LanguageMap()) == "por_Latn"
    assert language_option("sr", LanguageMap(keys={"sr": "srp_Latn"})) == "srp_Latn"
    with pytest.raises(ArgumentError, match="--language srp_Cyrl or --language srp_Latn"):
        language_option("sr", LanguageMap())
    with pytest.raises(ArgumentError, match="--language swh_Latn"):
        language_option("swa_Ltan", LanguageMap())
    with pytest.raises(ArgumentError, match="give a key such as"):
        language_option("?", LanguageMap())


def test_a_dry_run_tells_every_name(tmp_path: Path) -> None:
    write(tmp_path / "in", "sw/0.jsonl", "sr/0.jsonl")
    (tmp_path / "own.txt").write_text("sr: srp_Latn\nno: nob_Latn\n")

    def dry_run(*more: str) -> str:
        arguments = ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), *more]
        result = CliRunner().invoke(app, [*arguments, "--dry-run"])
        assert result.exception is None, result.exception
        return result.output

    said = dry_run("--language-map", str(tmp_path / "own.txt"))
    assert "languages: sr → srp_Latn (1 file), sw → swh_Latn (1 file)" in said
    assert "in no path: own.txt, line 2: no" in said
    assert "languages: Swahili → swh_Latn" in dry_run("--language", "Swahili")
    assert "languages:" not in dry_run("--language", "swh_Latn")
