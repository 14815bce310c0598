"""Cleaning, held-out split, duplicates and caps: exact decisions and counts."""

from __future__ import annotations

import bz2
import itertools
import json
import lzma
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbert.errors import UserError
from mmbert_prep.filters.cleaning import Cleaner, CleanText, content_hashes, heldout_mask
from mmbert_prep.filters.decontamination import Decontaminator
from mmbert_prep.readers import Document, Rejected, RejectReason
from mmbert_prep.tokenization.sample import temperature_budgets
from tests.support.texts import documents, run, settings


def clean(data: bytes, **changes: object) -> CleanText | RejectReason:
    cleaner = Cleaner(settings("in", Path("out"), **changes))
    result = cleaner.clean(Document(data, "eng_Latn"))
    return result.reason if isinstance(result, Rejected) else result


def test_reasons() -> None:
    assert clean(b"\xc3\x28") == "invalid_utf8"
    assert clean(b"") == "empty"
    assert clean(b" \n\t") == "empty"
    assert clean(b"\x00\x01") == "empty"
    assert clean(b"ab", minimum_characters=3) == "too_short"
    assert clean("äöü".encode(), minimum_characters=3) == CleanText("äöü", "äöü".encode(), False)
    assert clean(b"a" * 2000, maximum_bytes=1000) == "too_long"
    cleaner = Cleaner(settings("in", Path("out")))
    assert cleaner.clean(Document(b"text", None)) == Rejected(RejectReason.MISSING_LANGUAGE)
    broken = Document.reject("eng_Latn", RejectReason.BROKEN_JSON, "detail")
    assert cleaner.clean(broken) == Rejected(RejectReason.BROKEN_JSON, "detail")


def test_reasons_are_keys_of_manifests() -> None:
    """Manifests, summaries and reports contain these names."""
    damage = {"broken_json", "broken_row", "damaged_file", "invalid_tokens", "invalid_utf8"}
    damage |= {"missing_text", "too_long"}
    unwanted = {"contaminated", "duplicate", "empty", "near_duplicate", "no_tokens"}
    unwanted |= {"over_token_cap", "too_short"}
    unwanted |= {"missing_language"}  # with a limit of its own
    unwanted |= {"duplicate_of_source", "not_selected", "not_selected_null"}
    assert {reason.value for reason in RejectReason if reason.damage} == damage
    assert {reason.value for reason in RejectReason if not reason.damage} == unwanted
    assert json.dumps({RejectReason.EMPTY: 1}) == '{"empty": 1}'


@given(st.text(max_size=60))
def test_control_characters_and_nothing_else_are_removed(text: str) -> None:
    wanted = "".join(
        character
        for character in text
        if character in "\t\n\r\x85"
        or not (ord(character) < 32 or 127 <= ord(character) < 160 or character == "\ufeff")
    )
    result = clean(text.encode())
    if not wanted or wanted.isspace():
        assert result == "empty"
    else:
        assert result == CleanText(wanted, wanted.encode(), wanted != text)
    kept = clean(text.encode(), remove_control_characters=False)
    assert kept == "empty" or kept == CleanText(text, text.encode(), False)


def test_normalization_is_off_unless_wanted() -> None:
    data = "e\u0301 ﬁ".encode()
    assert clean(data) == CleanText("e\u0301 ﬁ", data, False)
    assert clean(data, normalization="NFC") == CleanText("é ﬁ", "é ﬁ".encode(), True)
    assert clean(data, normalization="NFKC") == CleanText("é fi", "é fi".encode(), True)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.9])
def test_heldout_share_and_its_independence_of_company(share: float) -> None:
    hashes = content_hashes([f"document {number}".encode() for number in range(20_000)])
    flags = heldout_mask(hashes, share)
    deviation = 5 * np.sqrt(20_000 * share * (1 - share)) + 1
    assert abs(int(flags.sum()) - 20_000 * share) < deviation
    assert np.array_equal(heldout_mask(hashes[7000:7100], share), flags[7000:7100])
    # A larger fraction holds out a superset.
    assert not np.any(flags & ~heldout_mask(hashes, min(0.99, share + 0.05)))


def test_duplicates_caps_and_reasons_in_the_manifest(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    texts = documents("swh_Latn", 200)
    blocks = texts + texts[:50] + ["\x00", "x"]
    (folder / "swh_Latn.txt").write_text("\n\n".join(blocks))
    (folder / "swh_Latn.more.txt").write_text("\n\n".join(texts[100:130]))
    summary = run(folder, tmp_path / "a", vocabulary_size=400, minimum_characters=2)
    language = summary.languages["swh_Latn"]
    assert language.rejected == {"duplicate": 80, "empty": 1, "too_short": 1}
    assert language.documents_read == 282
    assert language.train_documents + language.heldout_documents == 200
    twice = run(folder, tmp_path / "b", vocabulary_size=400, deduplicate=False)
    assert twice.languages["swh_Latn"].rejected == {"empty": 1}
    # A document and its copies are in the same split.
    assert twice.languages["swh_Latn"].heldout_documents >= language.heldout_documents
    most = language.train_tokens // 3
    capped = run(
        folder, tmp_path / "c", vocabulary_size=400, maximum_tokens_per_language=most
    ).languages["swh_Latn"]
    assert most - 100 < capped.train_tokens <= most
    assert capped.heldout_documents == language.heldout_documents
    total = capped.train_documents + capped.heldout_documents + sum(capped.rejected.values())
    assert total == capped.documents_read == 282


def test_small_languages_are_trained_on_without_a_heldout_part(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "eng_Latn.txt").write_text("\n\n".join(documents("eng_Latn", 100)))
    for number in range(8):
        (folder / f"aa{'abcdefgh'[number]}_Latn.txt").write_text(f"one document {number}")
    (folder / "zul_Latn.txt").write_text("\n\n \n")
    summary = run(folder, tmp_path / "out", vocabulary_size=400, heldout_share=0.9)
    small = [entry for key, entry in summary.languages.items() if key != "eng_Latn"]
    assert [(entry.train_documents, entry.heldout_documents) for entry in small] == [(1, 0)] * 8
    assert summary.languages["eng_Latn"].heldout_documents > 60
    assert summary.without_text == {"zul_Latn": {}}


def test_too_many_damaged_documents_stop_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    lines = [json.dumps({"text": text}) for text in documents("eng_Latn", 900)] + ["{"] * 200
    (folder / "eng_Latn.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"documents damaged: 200 of 1,100 \(18.2%\); allowed 10"):
        run(folder, tmp_path / "out", vocabulary_size=400)
    summary = run(folder, tmp_path / "out", vocabulary_size=400, maximum_rejected_fraction=0.2)
    assert summary.languages["eng_Latn"].rejected == {"broken_json": 200}


def test_decontamination(tmp_path: Path) -> None:
    question = "What is the highest mountain of the whole wide world, and how high is it today?"
    (tmp_path / "eval.jsonl").write_text(f'{{"q": "{question}", "id": 3, "more": ["short one"]}}\n')
    meal = "我们在北京的一家小餐馆里吃了一顿非常好吃的晚饭"
    (tmp_path / "eval.txt").write_text(f"{meal}然后回家睡觉了明天再去\n")
    known = Decontaminator([tmp_path / "eval.jsonl", tmp_path / "eval.txt"], 8)
    copied = "Quiz: WHAT is the highest mountain -- of the whole wide world (and more)?"
    assert known.is_contaminated(copied)
    assert known.is_contaminated(f"他说{meal}。")
    assert not known.is_contaminated("The highest mountain of the world is high.")
    assert not known.is_contaminated("short one")
    with pytest.raises(UserError, match=r"missing\.txt cannot be read"):
        Decontaminator([tmp_path / "missing.txt"], 8)
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "eng_Latn.txt").write_text("\n\n".join([*documents("eng_Latn", 50), copied]))
    changes = {"decontaminate": (tmp_path / "eval.jsonl",), "decontaminate_ngram": 8}
    summary = run(folder, tmp_path / "out", vocabulary_size=400, **changes)
    assert summary.languages["eng_Latn"].rejected == {"contaminated": 1}


def test_a_shared_run_is_found_wherever_it_lies(tmp_path: Path) -> None:
    """At the start, at the end, or all of the document and of the evaluation text."""
    (tmp_path / "eval.txt").write_text("one two three four five six\nalpha beta gamma delta\n")
    known = Decontaminator([tmp_path / "eval.txt"], 4)
    runs = ["one two three four", "two three four five", "three four five six"]
    for words in [*runs, "alpha beta gamma delta"]:
        for text in (words, f"before it {words}", f"{words} after it", f"in {words} between"):
            assert known.is_contaminated(text), text
        assert not known.is_contaminated(words.rsplit(" ", 1)[0])
    assert not known.is_contaminated("four five six one two three")
    assert not known.is_contaminated("six alpha beta gamma")  # n-grams do not span texts


@given(
    sizes=st.dictionaries(st.text(max_size=3), st.integers(0, 10**6), min_size=1, max_size=20),
    total=st.integers(0, 10**6),
    temperature=st.floats(0, 1),
)
def test_shares_by_temperature(sizes: dict[str, int], total: int, temperature: float) -> None:
    shares = temperature_budgets(sizes, total, temperature)
    assert all(0 <= shares[name] <= sizes[name] for name in sizes)
    assert sum(shares.values()) <= total
    wanted = min(total, sum(sizes.values()))
    assert sum(shares.values()) >= wanted - len(sizes) - 1
    order = sorted(sizes, key=lambda name: sizes[name])
    assert all(shares[a] <= shares[b] for a, b in itertools.pairwise(order))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_evaluation_files_of_any_format_and_encoding(encoding: str, tmp_path: Path) -> None:
    text = "all human beings are born free and equal in dignity"
    rows = [{"question": text, "answers": ["a", {"b": "they are endowed with reason"}]}]
    contents = {"a.json.xz": json.dumps(rows, indent=1), "b.txt.bz2": f"first\r\n{text}\r\n"}
    for name, content in contents.items():
        pack = lzma.compress if name.endswith("xz") else bz2.compress
        (tmp_path / name).write_bytes(pack(content.encode(encoding)))
        known = Decontaminator([tmp_path / name], 8)
        assert known.is_contaminated(f"He said: {text.upper()}.")
        assert not known.is_contaminated("They are endowed with reason and conscience")
    (tmp_path / "c.json").write_bytes(b'[{"a": "b\xff"}]')
    with pytest.raises(UserError, match=r"c\.json cannot be read"):
        Decontaminator([tmp_path / "c.json"], 8)
