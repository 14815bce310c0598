"""Runs that lose some of their input: the limits, what they say, and what a higher limit reads."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from mmbert.data.shards.manifest import read_manifest
from mmbert.errors import TextError
from mmbert_prep.executor.work_units import plan_work_units
from mmbert_prep.losses.ledger import LossLedger
from mmbert_prep.losses.plan import planned_input
from mmbert_prep.readers import Document, FileRange
from mmbert_prep.readers.accounting import FileLoss
from mmbert_prep.readers.discovery import discover
from mmbert_prep.settings import InputSettings
from mmbert_prep.shards import encode
from mmbert_prep.shards.report import write_report
from mmbert_prep.shards.summary import Summary
from tests.data_prep.losses.inputs import TEXT, lines, write
from tests.support.texts import json_lines, settings, tree


def test_unread_bytes_up_to_the_limit(tmp_path: Path, start: Callable[..., Summary]) -> None:
    write(tmp_path, eng_Latn=lines(989, bad=11))
    with pytest.raises(
        TextError, match=r"unread: at least 1\.1% of the input \(1,100 of 100,000 bytes\)"
    ):
        start()
    write(tmp_path, eng_Latn=lines(990, bad=10))
    summary = start()
    assert summary.unread_bytes == {"eng_Latn": 1000}
    assert summary.input_bytes == 100_000


def test_damaged_documents_up_to_the_limit(tmp_path: Path, start: Callable[..., Summary]) -> None:
    """A small input counts as a large one."""
    write(tmp_path, eng_Latn=lines(89, bad=11))
    with pytest.raises(TextError, match=r"documents damaged: 11 of 100 \(11\.0%\); allowed 10"):
        start(maximum_unread_fraction=0.5)
    write(tmp_path, eng_Latn=lines(90, bad=10))
    assert start(maximum_unread_fraction=0.5).rejected() == {"broken_json": 10}


def test_documents_without_a_language_up_to_the_limit(
    tmp_path: Path, start: Callable[..., Summary]
) -> None:
    write(tmp_path, mixed=lines(89, unnamed=11))
    message = r"without a language: at least 11\.\d% of the input.*\n(.*\n)*.*--language-column"
    with pytest.raises(TextError, match=message) as error:
        start()
    assert "damaged" not in str(error.value)
    write(tmp_path, mixed=lines(90, unnamed=10))
    summary = start()
    assert summary.rejected() == {"missing_language": 10}
    assert summary.unnamed_bytes == 1000
    assert summary.unread_bytes == {}


def test_duplicates_and_chosen_documents_are_no_loss(
    tmp_path: Path, start: Callable[..., Summary]
) -> None:
    short = "".join(json.dumps({"text": "short"}).ljust(99) + "\n" for _ in range(300)).encode()
    write(tmp_path, eng_Latn=lines(100) * 3 + short)
    summary = start(minimum_characters=20)
    assert summary.rejected() == {"duplicate": 200, "too_short": 300}
    stored = json.loads((tmp_path / "out" / "text" / "summary.json").read_text())
    assert {"input_bytes", "unread_bytes", "unnamed_bytes", "losses"}.isdisjoint(stored)
    manifest = (tmp_path / "out" / "text" / "eng_Latn" / "manifest.json").read_text()
    assert "unread" not in manifest


def test_a_language_of_a_sound_run_is_lost(tmp_path: Path, start: Callable[..., Summary]) -> None:
    write(tmp_path, eng_Latn=lines(1000), swh_Latn=lines(4, bad=5), yor_Latn=lines(4, bad=4))
    with pytest.raises(TextError, match=r"lose over half of their bytes: swh_Latn 55\.6%\n"):
        start()
    assert tree(tmp_path / "out" / "text") == {}
    summary = start(maximum_unread_fraction=1)
    assert summary.unread_bytes == {"swh_Latn": 500, "yor_Latn": 400}


def test_a_language_that_columns_name_is_lost(
    tmp_path: Path, start: Callable[..., Summary]
) -> None:
    """Which damaged records are of it is known only if they still name it."""
    rows = [{"text": f"{TEXT}{n}", "language": "eng_Latn"} for n in range(1500)]
    rows += [{"text": f"{TEXT}{n}", "language": "swh_Latn"} for n in range(3)]
    rows += [{"text": None, "language": "swh_Latn", "more": TEXT} for n in range(4)]
    write(tmp_path, mixed=json_lines(rows))
    with pytest.raises(TextError, match=r"lose over half of their bytes: swh_Latn 6"):
        start()


def test_a_path_of_a_language_may_be_lost_if_columns_name_it(
    tmp_path: Path, start: Callable[..., Summary]
) -> None:
    write(tmp_path, a__eng_Latn=lines(3, bad=7), b=lines(1500))
    assert start().unread_bytes == {"eng_Latn": 700}


def test_a_folder_of_a_sound_run_is_lost(tmp_path: Path, start: Callable[..., Summary]) -> None:
    write(
        tmp_path, web__eng_Latn=lines(1000), forum__eng_Latn=lines(0, bad=5),
        books__eng_Latn=lines(1, bad=4),
    )  # fmt: skip
    with pytest.raises(TextError, match=r"folders that lose all: forum\n") as error:
        start()
    assert "books" not in str(error.value).split("files that lose")[0]
    assert "--maximum-unread-fraction 1" in error.value.remedy
    assert start(maximum_unread_fraction=1).unread_bytes == {"eng_Latn": 900}


def test_a_folder_without_languages_is_lost(tmp_path: Path, start: Callable[..., Summary]) -> None:
    write(tmp_path, web__eng_Latn=lines(1000), English__a=lines(0, unnamed=5))
    with pytest.raises(TextError, match=r"folders that lose all: English\n"):
        start(maximum_unread_fraction=1)
    assert start(maximum_without_language_fraction=1).unnamed_bytes == 500


def test_a_run_that_cannot_be_within_its_limits_stops(
    tmp_path: Path, start: Callable[..., Summary]
) -> None:
    files = {f"eng_Latn__{number:02}": lines(60, bad=40) for number in range(30)}
    write(tmp_path, **files)
    message = r"already loses more.*\n  unread: at least 1\.3% of the input"
    with pytest.raises(TextError, match=message):
        start(unit_bytes=10_000)
    assert len(list((tmp_path / "out").glob(".preprocess/text/units-*/*.json"))) == 1


def test_a_huge_file_is_not_read_to_its_end(
    tmp_path: Path, start: Callable[..., Summary], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limits are checked inside a file, and nothing of its unit is kept."""
    monkeypatch.setattr(encode, "_CHECK_BYTES", 1000)
    read = 0
    read_range = encode.read_range

    def counted(file_range: FileRange, options: InputSettings) -> Iterator[Document]:
        nonlocal read
        for document in read_range(file_range, options):
            read += 1
            yield document

    monkeypatch.setattr(encode, "read_range", counted)
    write(tmp_path, eng_Latn=lines(0, bad=3000))
    with pytest.raises(TextError, match="already loses more"):
        start(unit_bytes=1 << 30)
    assert read < 1500
    assert list((tmp_path / "out").glob(".preprocess/text/units-*/*")) == []


def test_workers_see_the_losses_of_others(tmp_path: Path) -> None:
    write(tmp_path, eng_Latn=lines(100))
    chosen = settings(tmp_path / "in", tmp_path / "out", unit_bytes=2000)
    found = discover(chosen)
    plan = plan_work_units(found, chosen)
    planned = planned_input(found, plan)
    keys = [unit.key for unit in plan.units]
    first, second = (
        LossLedger(tmp_path / "losses", "read", keys, planned, chosen, workers=2) for _ in range(2)
    )
    loss = FileLoss(path="a", unread_bytes=60, languages={"eng_Latn": 60})  # 0.6%
    first.record(keys[0], [loss])
    first.check_if_needed()
    second.record(keys[1], [loss])
    with pytest.raises(TextError, match=r"unread: at least 1\.2% of the input"):
        second.check_if_needed()
    with pytest.raises(
        TextError, match=r"unread: at least 1\.2% of the input"
    ):  # of an earlier run
        LossLedger(tmp_path / "losses", "read", keys, planned, chosen, workers=2)
    # Of work units that a changed input no longer has.
    LossLedger(tmp_path / "losses", "read", keys[1:], planned, chosen, workers=2)


def test_a_higher_limit_goes_on_without_reading_again(
    tmp_path: Path, start: Callable[..., Summary], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, eng_Latn=lines(80, bad=20))
    with pytest.raises(TextError, match="unread: at least 20"):
        start()
    with pytest.raises(TextError, match="documents damaged: 20 of 100"):
        start(maximum_unread_fraction=0.3)

    def refuse(*arguments: object) -> None:
        raise AssertionError("a file was read again")

    monkeypatch.setattr(encode, "read_range", refuse)
    summary = start(maximum_unread_fraction=0.3, maximum_rejected_fraction=0.3)
    assert summary.languages["eng_Latn"].documents_read == 100


def test_losses_are_stored_and_shown(
    tmp_path: Path, start: Callable[..., Summary], capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, a__eng_Latn=lines(990, bad=3), b__swh_Latn=lines(100, bad=1))
    start()
    shown = " ".join(capsys.readouterr().err.split())
    assert "unread: 400 of 109,400 bytes of the input (0.37%): eng_Latn 300, swh_Latn 100" in shown
    shards = tmp_path / "out"
    assert read_manifest(shards / "text" / "eng_Latn").unread_bytes == 300
    stored = json.loads((shards / "text" / "summary.json").read_text())
    assert stored["unread_bytes"] == {"eng_Latn": 300, "swh_Latn": 100}
    assert stored["input_bytes"] == 109_400
    assert [loss["unread_bytes"] for loss in stored["losses"]] == [300, 100]
    assert stored["losses"][0]["reasons"] == {"broken_json": 3}
    write_report(shards, tmp_path / "report.tsv", Console(quiet=True))
    with open(tmp_path / "report.tsv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["unread_bytes"] for row in rows] == ["300", "100"]
