"""Encodings: byte order marks, UTF-16 without one, and legacy encodings by option."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from mmbert.errors import UserError
from tests.support.reading import damage, read, reasons, texts
from tests.support.texts import documents, run, settings

RUSSIAN = ["река течёт мимо дома", "люди гуляют вечером"]
UNMARKED = {
    "eng_Latn": "the river runs past a small house",
    "rus_Cyrl": "река течёт мимо дома",
    "hin_Deva": "नदी एक छोटे से घर के पास से बहती है",
    "tha_Thai": "แม่น้ำไหลผ่านบ้านหลังเล็ก",
    "cmn_Hani": "河流经过一座小房子。\n人们晚上散步。\n",
    "arb_Arab": "يجري النهر بجوار منزل صغير",
}


@pytest.mark.parametrize("encoding", ["cp1251", "koi8-r", "KOI8_R", "iso8859_5", "utf-16-le"])
@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".json", ".csv", ".txt.gz"])
def test_legacy_encodings_by_option(suffix: str, encoding: str, tmp_path: Path) -> None:
    content = {
        ".txt": "\n\n".join(RUSSIAN),
        ".jsonl": "\n".join(f'{{"text": "{text}"}}' for text in RUSSIAN),
        ".json": json.dumps([{"text": text} for text in RUSSIAN], ensure_ascii=False),
        ".csv": "text,n\r\n" + "".join(f"{text},1\r\n" for text in RUSSIAN),
    }[suffix.removesuffix(".gz")].encode(encoding)
    data = gzip.compress(content) if suffix.endswith(".gz") else content
    (tmp_path / f"rus_Cyrl{suffix}").write_bytes(data)
    assert texts(read(tmp_path, 10, encoding=encoding)) == RUSSIAN


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("shift_jis", "川が家の前を流れる"),
        ("gb18030", "河流经过一座小房子𠀀"),
        ("big5", "河流經過"),
    ],
)
def test_encodings_of_several_bytes(encoding: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "jpn_Jpan.txt").write_bytes(f"{text}\n\n{text}!".encode(encoding))
    assert texts(read(tmp_path, 7, encoding=encoding)) == [text, f"{text}!"]


def test_what_cannot_be_decoded_rejects_only_its_document(tmp_path: Path) -> None:
    data = "один\n\n".encode("cp1251") + b"\x98 two" + "\n\nтри".encode("cp1251")
    (tmp_path / "rus_Cyrl.txt").write_bytes(data)
    found = [document.data for document in read(tmp_path, encoding="cp1251")]
    assert found[0] == "один".encode()
    assert found[2] == "три".encode()
    with pytest.raises(UnicodeDecodeError):
        bytes(found[1] or b"").decode()
    lines = [json.dumps({"text": text}) for text in ("one", "two", "three")]
    broken = "\ufeff".encode("utf-16-le") + "\n".join(lines).encode("utf-16-le")
    broken = broken.replace("w".encode("utf-16-le"), b"\x00\xd8")  # half of a surrogate pair
    (tmp_path / "rus_Cyrl.txt").unlink()
    (tmp_path / "rus_Cyrl.jsonl").write_bytes(broken)
    found_lines = read(tmp_path)
    assert texts(found_lines) == ["one", "three"]
    assert reasons(found_lines) == ["invalid_utf8"]


def test_utf8_is_not_read_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "rus_Cyrl.txt").write_text("\n\n".join(RUSSIAN), "utf-8")
    found = read(tmp_path, encoding="cp1251")
    assert texts(found) == []
    assert "it is UTF-8, not cp1251" in damage(found)
    (tmp_path / "rus_Cyrl.txt").write_text("\n\n".join(RUSSIAN), "utf-8-sig")
    assert texts(read(tmp_path, encoding="cp1251")) == RUSSIAN  # the mark says so
    (tmp_path / "rus_Cyrl.txt").write_bytes("联通".encode("gb18030"))  # valid UTF-8 by chance
    assert texts(read(tmp_path, encoding="gb18030")) == ["联通"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("language", UNMARKED)
def test_utf16_without_a_mark_is_named(language: str, encoding: str, tmp_path: Path) -> None:
    path = tmp_path / f"{language}.txt"
    path.write_bytes(UNMARKED[language].encode(encoding))
    found = read(tmp_path)
    assert texts(found) == []
    assert f"UTF-16 without a byte order mark: --encoding {encoding} reads it" in damage(found)
    assert "\n".join(texts(read(tmp_path, encoding=encoding))) == UNMARKED[language].strip("\n")


@pytest.mark.parametrize(
    "data",
    [
        b"\n\n \n",
        b"a\nb\nc\nd\n",
        b"a\tb\tc\n1\t2\t3\n",
        b"a\0b",
        b"\0\0x",
        b"x" * 99 + b"\0\0\xff",
    ],
)
def test_what_is_no_utf16(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "eng_Latn.txt").write_bytes(data)
    assert reasons(read(tmp_path)) == []


@pytest.mark.parametrize("name", ["latin-9000", "hex", "rot13", "idna", "unicode_escape", ""])
def test_unknown_encodings_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="encoding"):
        settings(tmp_path, tmp_path, encoding=name)


def test_spellings_of_an_encoding_are_one_setting(tmp_path: Path) -> None:
    latin = [settings(tmp_path, tmp_path, encoding=name) for name in ("latin-1", "ISO8859_1", "L1")]
    assert {str(each.output_settings()) for each in latin} == {str(latin[0].output_settings())}
    default = settings(tmp_path, tmp_path).output_settings()
    assert default == settings(tmp_path, tmp_path, encoding="UTF8").output_settings()
    assert not {"encoding", "delimiter", "quotes"} & set(default)


def test_documents_that_are_no_utf8_are_told_with_the_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    legacy = "\n\n".join(documents("deu_Latn", 30))
    (folder / "deu_Latn.txt").write_bytes(legacy.encode() + b" \xe4")
    (folder / "fra_Latn.txt").write_bytes("\n\n".join(["é"] * 9).encode("cp1252"))
    with pytest.raises(UserError, match=r"fra_Latn.txt: 25 bytes(.*\n)*.*--encoding NAME"):
        run(folder / "fra_Latn.txt", tmp_path / "french", vocabulary_size=400)
    allowed = {"maximum_unread_fraction": 1, "maximum_rejected_fraction": 1}
    run(folder, tmp_path / "out", vocabulary_size=400, **allowed)
    assert "invalid_utf8: read files in an encoding" in capsys.readouterr().err


def test_marks_inside_joined_files(tmp_path: Path) -> None:
    line = b'\xef\xbb\xbf{"text": "a"}\n'
    (tmp_path / "eng_Latn.jsonl").write_bytes(line * 3)
    assert texts(read(tmp_path)) == ["a"] * 3
