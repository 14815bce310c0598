"""CSV and TSV: quoting, delimiters, headers, ragged rows, and rows that swallow others."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbert_prep.readers.discovery import discover
from tests.support.reading import damage, read, reasons, texts
from tests.support.texts import settings


def write(folder: Path, content: str, name: str = "eng_Latn.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode())
    return path


FIELDS = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]), st.sampled_from("\"'\n\r,;\t|\\ \u2028\x85\ufeff")
    ),
    max_size=25,
)


@given(rows=st.lists(st.tuples(FIELDS, FIELDS), max_size=8), delimiter=st.sampled_from(",;|\t"))
def test_what_a_csv_writer_wrote_is_read(
    rows: list[tuple[str, str]], delimiter: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("table")
    with (folder / "eng_Latn.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([("label", "text"), *rows])
    found = read(folder)
    if delimiter == "\t" and reasons(found):  # a line of a text that looks like a row
        assert "quotation marks enclose lines" in damage(found)
        assert texts(found) == [text for _, text in rows][: len(texts(found))]
    else:
        assert texts(found) == [text for _, text in rows]
        assert not reasons(found)


@given(content=st.binary(max_size=80), quotes=st.booleans())
def test_any_bytes_give_texts_of_the_file_or_damage(
    content: bytes, quotes: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("table")
    (folder / "eng_Latn.csv").write_bytes(b"n,text\n" + content)
    for document in read(folder, quotes=quotes):
        if document.rejected is None:
            assert document.data is not None
            assert document.data.replace(b'"', b"") in content.replace(b'"', b"")


@pytest.mark.parametrize(
    ("header", "row", "options"),
    [
        ("id,text", '1,"a;b|c\td"', {}),
        ("id;text;n", "1;a,b|c;2", {}),
        ("id|text", "1|a,b;c", {}),
        ("id\ttext", "1\ta,b;c", {}),
        (" id , text ", "1,a;b", {}),
        ("text", "a;b", {}),
        ("id:text", "1:a,b", {"delimiter": ":"}),
        ("text,a;text", "no,yes;yes", {"delimiter": ";", "text_column": "text"}),
    ],
)
def test_delimiters(header: str, row: str, options: dict[str, str], tmp_path: Path) -> None:
    write(tmp_path, f"{header}\n{row}\n\n{row}\n")
    found = texts(read(tmp_path, **options))
    assert len(found) == 2
    assert found[0] in {"a;b|c\td", "a,b|c", "a,b;c", "a;b", "a,b", "yes"}


def test_a_tsv_file_has_tabs_alone(tmp_path: Path) -> None:
    write(tmp_path, "id,text\n1,a\n", "eng_Latn.tsv")
    assert "no column 'text' among id,text" in damage(read(tmp_path))
    assert texts(read(tmp_path, delimiter=",")) == ["a"]


@pytest.mark.parametrize("delimiter", ["tab", "\\t", "\t"])
def test_names_of_the_tab(delimiter: str, tmp_path: Path) -> None:
    write(tmp_path, "a,text\ttext\n1\tyes\n")
    assert texts(read(tmp_path, delimiter=delimiter)) == ["yes"]


@pytest.mark.parametrize("delimiter", ["", ",,", '"', "\n"])
def test_what_is_no_delimiter(delimiter: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not one character"):
        settings(tmp_path, tmp_path, delimiter=delimiter)


def test_headers_without_the_text_are_named(tmp_path: Path) -> None:
    write(tmp_path, "id;content\n1;a\n")
    assert "no column 'text' among content, id" in damage(read(tmp_path))
    assert texts(read(tmp_path, text_column="content")) == ["a"]
    write(tmp_path, "text,text\na,b\n")
    assert "2 columns 'text'" in damage(read(tmp_path))
    write(tmp_path, "id,text\r1,a\r2,b\r")
    assert "carriage returns" in damage(read(tmp_path))


def test_languages_by_columns(tmp_path: Path) -> None:
    content = "language,language_script,text\nsw,Latn,a\nyor_Latn,,b\n?,?,c\n"
    write(tmp_path, content, "web.csv")
    write(tmp_path, "id,text\n1,a\n", "labels.csv")
    assert [document.language for document in read(tmp_path)] == ["swh_Latn", "yor_Latn", None]
    found = discover(settings(tmp_path, tmp_path / "out"))
    assert found.ignored == {"table whose path names no language": ["labels.csv"]}


def test_ragged_rows_are_damaged_documents(tmp_path: Path) -> None:
    write(tmp_path, "id,text\n1,a\n2,b,c\n3\n\n4,d\n5,\n")
    found = read(tmp_path)
    assert texts(found) == ["a", "d", ""]
    assert reasons(found) == ["broken_row", "broken_row"]


def test_misplaced_quotation_marks_are_named_with_their_line(tmp_path: Path) -> None:
    write(tmp_path, 'id,text\n1,a\n2,"b" c\n3,d\n')
    found = read(tmp_path)
    assert texts(found) == ["a"]
    assert "line 3: " in damage(found)
    assert "--no-quotes" in damage(found)
    assert texts(read(tmp_path, quotes=False)) == ["a", '"b" c', "d"]
    write(tmp_path, 'id,text\n1,a\n2,"b\n3,d\n')
    assert "line 3 to 4: unexpected end" in damage(read(tmp_path))


def test_rows_of_a_tsv_file_that_quotes_swallow(tmp_path: Path) -> None:
    content = 'id\ttext\n1\ta\n2\t"b\n3\tc\n4\td"\n'
    write(tmp_path, content, "eng_Latn.tsv")
    found = read(tmp_path)
    assert texts(found) == ["a"]
    assert "line 3 to 5: quotation marks enclose lines" in damage(found)
    assert texts(read(tmp_path, quotes=False)) == ["a", '"b', "c", 'd"']


def test_long_fields_and_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "x\n" * 1000
    write(tmp_path, f'id,text\n1,a\n2,"{long}"\n3,{"y" * 2000}\n4,b\n')
    found = read(tmp_path, maximum_bytes=1000)
    assert texts(found) == ["a", "b"]
    assert reasons(found) == ["too_long", "too_long"]
    monkeypatch.setattr("mmbert_prep.readers.formats.table._OTHER_COLUMNS", 500)
    found = read(tmp_path, maximum_bytes=1000)
    assert texts(found) == ["a"]
    assert "the row at line 3 is longer" in damage(found)


def test_invalid_utf8_rejects_only_its_row(tmp_path: Path) -> None:
    (tmp_path / "eng_Latn.csv").write_bytes(b"id,text\n1,a\n2,b\xff\n3,c\n")
    assert [document.data for document in read(tmp_path)] == [b"a", b"b\xff", b"c"]
