"""The page of shards: figures, documents, languages that are something else, errors."""

import json
import random
import re
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbert.data.shards.corpus import open_corpus
from mmbert.errors import ArgumentError, PackageError, ShardsError
from mmbert.report.shards.document_lengths import count_lengths
from mmbert.report.shards.identification import identify_languages
from mmbert.report.shards.identifiers import FastTextIdentifier, open_identifier, variety
from mmbert.report.shards.page import build_shards_report
from mmbert.report.shards.samples import Sampler, visible
from tests.report.test_page import HOSTILE, Page, run_report
from tests.support.fasttext_model import HIERARCHICAL, SOFTMAX, write_fasttext_model
from tests.support.logged_run import LoggedRun
from tests.support.texts import json_lines, run

GERMAN = (
    "Der Zug kommt heute leider zu spät. Wir haben gestern lange auf dich gewartet. "
    "Die Kinder spielen im Garten hinter dem Haus. Kannst du mir bitte das Brot geben? "
    "Im Winter ist es hier oft sehr kalt und dunkel. Das Buch liegt auf dem Tisch in der Küche. "
    "Meine Schwester arbeitet seit drei Jahren in einem Krankenhaus. Er wollte nicht darüber reden."
)
FRENCH = (
    "Le train est encore en retard aujourd'hui. Nous avons attendu longtemps hier soir. "
    "Les enfants jouent dans le jardin derrière la maison. Peux-tu me donner le pain ? "
    "En hiver il fait souvent très froid et sombre ici. Le livre est sur la table de la cuisine. "
    "Ma sœur travaille depuis trois ans dans un hôpital. Il ne voulait pas en parler."
)
ARABIC = (
    "تأخر القطار اليوم أيضا. انتظرنا طويلا مساء أمس. يلعب الأطفال في الحديقة خلف البيت. "
    "هل يمكنك أن تعطيني الخبز من فضلك. الكتاب على الطاولة في المطبخ. "
    "تعمل أختي في مستشفى منذ ثلاث سنوات."
)
WRONG, BOOKS = "fra_Latn", "books"


def documents_of(text: str, count: int, seed: int = 0) -> list[str]:
    """Return distinct documents of the sentences of a text."""
    generator = random.Random(seed)
    sentences = re.findall(r"[^.? ][^.?]+[.?]", text)
    return [" ".join(generator.choices(sentences, k=5)) + f" {number}" for number in range(count)]


TEXTS = {
    WRONG: documents_of(GERMAN, 60),
    "deu_Latn": documents_of(GERMAN, 60, 1),
    "arb_Arab": documents_of(ARABIC, 40),
    "eng_Latn": [f"{HOSTILE} {number} hostile" for number in range(5)] + ["twice " * 9] * 3,
    "quz_Latn": ["a b"],
}


def write(folder: Path, texts: dict[str, list[str]]) -> Path:
    for language, documents in texts.items():
        place = folder / language / "text.jsonl"
        place.parent.mkdir(parents=True)
        place.write_bytes(json_lines({"text": text} for text in documents))
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sources; one has German text in the folder of French."""
    folder = tmp_path_factory.mktemp("data")
    output = folder / "shards"
    options: dict[str, Any] = {"vocabulary_size": 500, "heldout_share": 0.1, "unit_bytes": None}
    run(write(folder / "web", TEXTS), output, source="web", **options)
    other = {WRONG: documents_of(FRENCH, 30), "nno_Latn": documents_of(GERMAN, 3)}
    options["vocabulary_size"] = None
    run(write(folder / BOOKS, other), output, source=BOOKS, minimum_characters=4, **options)
    return output


def listed(page: Page) -> dict[str, tuple[str, ...]]:
    """Return the cells of each language of the list that folds out."""
    lines = "\n".join(page.texts).split("rejected\n", 1)[1]
    found = re.findall(r"^(\w+/\w+) .*\n((?:[\d,.%–]+\n)+)", lines, re.MULTILINE)
    return {key: tuple(cells.split()) for key, cells in found}


def test_the_figures_are_those_of_the_manifests(shards: Path) -> None:
    report = build_shards_report(shards)
    assert report.warnings == []
    page = Page(report.html)
    cells = listed(page)
    corpus = open_corpus(shards)
    assert set(cells) == {component.name for component in corpus.components}
    for component in corpus.components:
        train = component.manifest.train
        summary = json.loads((shards / component.source / "summary.json").read_text())
        share = summary["languages"][component.language]["byte_fallback_share"]
        rejected = sum(component.manifest.rejected.values())
        expected = [f"{n:,}" for n in (train.documents, train.tokens, train.bytes)]
        assert cells[component.name] == (*expected, f"{share:.2%}", f"{rejected:,}")
    tokens = Counter[str]()
    for component in corpus.components:
        tokens[component.language[-4:]] += component.manifest.train.tokens
    (data,) = page.specs["scripts"]["datasets"].values()
    assert data == [
        {"name": "Latin", "value": tokens["Latn"]},
        {"name": "Arabic", "value": tokens["Arab"]},
    ]
    (data,) = page.specs["rejected"]["datasets"].values()
    assert {row["name"]: row["value"] for row in data}["duplicate"] == 2
    lengths = page.specs["lengths"]["datasets"]["points"]
    assert sum(row["value"] for row in lengths) == sum(
        component.manifest.train.documents for component in corpus.components
    )


def test_ten_documents_of_each_language_are_text_and_always_the_same(shards: Path) -> None:
    html = build_shards_report(shards).html
    page = Page(html)
    paragraphs = [attributes for tag, attributes in page.tags if tag == "p" and "dir" in attributes]
    assert all(attributes["dir"] == "auto" for attributes in paragraphs)
    counts = Counter(attributes["lang"] for attributes in paragraphs)
    assert counts["de-Latn"] == counts["ar-Arab"] == 10
    assert counts["fr-Latn"] == 20, "ten of each source"
    assert sum(text in page.text for text in TEXTS["deu_Latn"]) >= 9
    assert "alert(1)" in page.text
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    details = [attributes for tag, attributes in page.tags if tag == "details"]
    assert any(
        (one.get("data-find") or "").startswith("web/arb_arab arabic arabic") for one in details
    )
    assert not re.search(r"[\x00-\x08]", html)
    without_time = re.compile(r"Written by .*")
    again = build_shards_report(shards).html
    assert without_time.sub("", again) == without_time.sub("", html)


def test_long_documents_are_shortened_and_control_characters_shown(shards: Path) -> None:
    corpus = open_corpus(shards)
    sampled = Sampler(corpus).sample(corpus.component("web", "deu_Latn"), 10, 40)
    assert {len(one.text) for one in sampled} == {40}
    assert not any(one.is_whole for one in sampled)
    whole = Sampler(corpus).sample(corpus.component("web", "deu_Latn"), 10, 10_000)
    assert all(one.is_whole and one.text in TEXTS["deu_Latn"] for one in whole)
    assert [one.number for one in whole] == [one.number for one in sampled]
    assert visible("a\0b\x1b\x7f\x85\n\t") == "a\u2400b\u241b\u2421\ufffd\n\t"


@given(st.lists(st.lists(st.integers(0, 5000), max_size=30), max_size=4))
def test_lengths_are_exact(shards_of_lengths: list[list[int]]) -> None:
    counted = count_lengths(np.array(one, dtype=np.int32) for one in shards_of_lengths)
    everything = sorted(length for one in shards_of_lengths for length in one)
    assert counted.documents == len(everything)
    assert counted.by_power_of_two().sum() == len(everything)
    if everything:
        assert counted.maximum == everything[-1]
        for fraction in (0.05, 0.5, 0.95):
            place = max(0, int(np.ceil(fraction * len(everything) - 1e-9)) - 1)
            assert counted.quantile(fraction) == everything[place]


def test_the_command_names_a_folder_whose_text_is_something_else(
    shards: Path, tmp_path: Path
) -> None:
    pytest.importorskip("py3langid")
    pytest.importorskip("langcodes")
    page = tmp_path / "page.html"
    result = run_report(shards, "--output", page, "--identify", "bundled")
    assert result.exit_code == 0, result.output
    assert re.search(r"web/fra_Latn +0% +30 +de \(German\) 100%", result.output)
    assert "books/fra_Latn" not in result.output.split("Suspicious")[1], "French"
    assert "web/deu_Latn" not in result.output.split("Suspicious")[1]
    assert re.search(r"\d languages in 2 scripts, 2 sources: [\d,]+ training", result.output)
    assert "rejected: " in result.output
    assert "Highest byte fallback" in result.output
    assert re.search(rf"{page}: \d\.\d MB, \d languages", result.output.replace("\n", ""))
    text = Page(page.read_text(encoding="utf-8")).text
    assert re.search(r"web/fra_Latn \(French\) de \(German\) 100% 30 0%", text)
    assert "Identification of languages" in text


@pytest.mark.parametrize("loss", [SOFTMAX, HIERARCHICAL])
def test_a_fasttext_model_gives_all_its_labels(loss: int, tmp_path: Path) -> None:
    pytest.importorskip("fasttext")
    names = [f"q{chr(97 + n // 26)}{chr(97 + n % 26)}_Latn" for n in range(100)]
    path = tmp_path / "model.bin"
    write_fasttext_model(path, {name: [f"word-{name}"] for name in names}, loss)
    assert FastTextIdentifier(path).labels == names


def test_languages_a_model_does_not_know_are_not_checked(shards: Path, tmp_path: Path) -> None:
    pytest.importorskip("fasttext")
    pytest.importorskip("langcodes")
    words = {"deu_Latn": ["Der", "der", "Die", "Das", "dem"], "fra_Latn": ["Le", "Les", "le"]}
    words["nob_Latn"] = ["Kannst"]
    write_fasttext_model(tmp_path / "model.bin", words)
    found = build_shards_report(shards, str(tmp_path / "model.bin")).identification
    assert found is not None
    assert (found.identifier, found.labels) == ("model.bin", 3)
    checked = {f"{one.source}/{one.language}": one for one in found.languages}
    assert set(checked) == {"web/fra_Latn", "web/deu_Latn", "books/fra_Latn", "books/nno_Latn"}
    assert "web/arb_Arab" in found.not_checked
    assert [f"{one.source}/{one.language}" for one in found.suspicious] == [
        "web/fra_Latn",
        "books/nno_Latn",
    ]
    assert checked["web/fra_Latn"].most_frequent_other.startswith("deu_Latn (German) ")
    assert checked["web/deu_Latn"].documents == 30


class _Constant:
    """An identifier that has the same answer to everything."""

    name = "constant"

    def __init__(self, label: str, labels: list[str]) -> None:
        self._label, self.labels = label, labels

    def identify(self, texts: list[str]) -> list[str]:
        return [self._label] * len(texts)


def test_text_without_letters_and_without_documents_is_not_judged(shards: Path) -> None:
    pytest.importorskip("langcodes")
    from mmbert.report.shards.contents import read_contents

    contents = read_contents(shards)
    labels = ["qu", "de", "fr", "no", "ar", "en"]
    found = identify_languages(contents, Sampler(contents.corpus), _Constant("de", labels))
    short = {"web/quz_Latn"} & {component.name for component in contents.corpus.components}
    assert set(found.too_short) == short
    assert found.not_checked == []


@pytest.mark.parametrize(
    ("name", "same", "another"),
    [
        ("hrv_Latn", ["hr", "sr_Latn", "bs", "hbs_Latn"], ["sr", "srp_Cyrl", "sl"]),
        ("nno_Latn", ["nob_Latn", "no", "nn"], ["da", "dan_Latn"]),
        ("cmn_Hani", ["zh", "zho_Hans", "zh-Hant", "cmn_Hani", "yue_Hani"], ["ja", "jpn_Jpan"]),
        ("swh_Latn", ["sw", "swa_Latn", "swh_Latn"], ["so"]),
        ("arz_Arab", ["ar", "arb_Arab"], ["fa"]),
        ("kaz_Latn", ["kaz_Latn"], ["kk", "kaz_Cyrl"]),
        ("ind_Latn", ["id", "ms", "zsm_Latn"], ["jv"]),
        ("x1_Latn", ["x1_Latn"], ["de"]),
    ],
)
def test_names_of_the_same_language(name: str, same: list[str], another: list[str]) -> None:
    pytest.importorskip("langcodes")
    assert {variety(other) for other in same} == {variety(name)}
    assert variety(name) not in {variety(other) for other in another}


def test_what_a_folder_lacks_is_said(shards: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(shards, copy)
    (copy / "web" / "summary.json").write_text("{")
    (copy / BOOKS / "summary.json").unlink()
    (copy / "tokenizer" / "tokenizer.json").unlink()
    report = build_shards_report(copy)
    assert [text.split(": ")[1] for text in report.warnings] == [
        "no summary.json in books",
        "unreadable summary.json in web",
        "no tokenizer/tokenizer.json",
    ]
    assert "no summary.json in books" in Page(report.html).text
    assert listed(Page(report.html))["web/deu_Latn"][3] == "–"
    for path in copy.glob("*/*/manifest.json"):
        path.unlink()
    with pytest.raises(ShardsError, match="no finished language"):
        build_shards_report(copy)


def test_languages_of_which_nothing_was_kept_and_damaged_files_are_shown(
    shards: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(shards, copy)
    path = copy / "web" / "summary.json"
    summary = json.loads(path.read_text())
    summary["without_text"] = {"tir_Ethi": {"too_short": 70}, "": {"no_language": 3000}}
    summary["damaged_files"] = ["web/torn.jsonl.gz: cut short"]
    path.write_text(json.dumps(summary))
    report = build_shards_report(copy)
    text = Page(report.html).text
    assert "rejected: too_short 70" in text
    assert re.search(r"no_language \(no language\) 3,000 3,000 1 ", text)
    assert "web/torn.jsonl.gz: cut short" in text
    assert listed(Page(report.html))["web/tir_Ethi"] == ("0", "0", "0", "–", "70")


def test_a_damaged_index_is_named(shards: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(shards, copy)
    (path,) = (copy / "web" / "deu_Latn").glob("train-*.idx")
    data = bytearray(path.read_bytes())
    data[34:38] = (1).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(ShardsError, match=r"deu_Latn/train-\d+\.idx is damaged"):
        build_shards_report(copy)


def test_runs_and_shards_are_not_mixed(shards: Path, tmp_path: Path) -> None:
    training = LoggedRun().write(tmp_path / "run")
    for arguments, message in (
        ((training, shards), f"{shards} is a folder of shards, {training} is not"),
        ((shards, tmp_path), f"{shards} is a folder of shards, {tmp_path} is not"),
        ((training, "--identify", "bundled"), f"{training} is no folder of shards"),
    ):
        error = run_report(*arguments).exception
        assert isinstance(error, ArgumentError)
        assert message in error.message
    other = tmp_path / "other"
    (other / "tokenizer").mkdir(parents=True)
    shutil.copy(shards / "tokenizer" / "description.json", other / "tokenizer")
    error = run_report(shards, other).exception
    assert "two folders of shards" in str(error)
    assert "has no finished language" in str(run_report(other).exception)


def test_an_identifier_that_is_missing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model.bin"
    with pytest.raises(ArgumentError, match=r"model\.bin does not exist"):
        open_identifier(str(model))
    model.write_bytes(b"nonsense")
    for package, choice in (("py3langid", "bundled"), ("fasttext", str(model))):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(PackageError, match="which is not installed") as caught:
            open_identifier(choice)
        assert "mmbert-train[identify]" in caught.value.remedy
        monkeypatch.undo()


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("fasttext")
    (tmp_path / "model.bin").write_bytes(b"nonsense")
    with pytest.raises(ArgumentError, match="is not a fastText classifier"):
        open_identifier(str(tmp_path / "model.bin"))
