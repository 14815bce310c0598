"""Readers: each record is read once for any division, and damage is reported by reason."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from mmbert.errors import UserError
from mmbert_prep.readers import plan_ranges, read_range
from mmbert_prep.readers.discovery import discover
from mmbert_prep.readers.registry import FORMAT_OF_SUFFIX
from mmbert_prep.readers.streams import OversizedLine, read_blocks, split_lines
from mmbert_prep.settings import PrepSettings
from tests.support.reading import read, reasons, texts
from tests.support.sample_files import SAMPLE_FILES, TOKEN_FILES, TOKEN_IDS
from tests.support.texts import documents, json_lines, rows, settings


def test_every_format_has_a_sample_file() -> None:
    suffixes = {suffix.split(".")[-1] for suffix in SAMPLE_FILES} - {"gz", "zst", "bz2", "xz"}
    formats = {FORMAT_OF_SUFFIX[f".{suffix}"].name for suffix in suffixes}
    assert formats == {file_format.name for file_format in FORMAT_OF_SUFFIX.values()}


@pytest.mark.parametrize("unit_bytes", [1, 50, 333, 4000, 1 << 40])
@pytest.mark.parametrize("suffix", SAMPLE_FILES)
def test_segments_of_any_size_give_the_same_documents(
    suffix: str, unit_bytes: int, tmp_path: Path
) -> None:
    expected = documents("eng_Latn", 57)
    SAMPLE_FILES[suffix](tmp_path / f"eng_Latn{suffix}", expected)
    found = read(tmp_path, unit_bytes)
    if suffix in TOKEN_FILES:
        tokens = [document.tokens.tolist() for document in found if document.tokens is not None]
        assert tokens == [TOKEN_IDS] * len(expected)
    else:
        assert texts(found) == expected
    assert {document.language for document in found} == {"eng_Latn"}


@given(
    records=st.lists(
        st.binary(max_size=30).map(lambda data: data.replace(b"\r", b"")), max_size=20
    ),
    unit_bytes=st.integers(1, 60),
    unit=st.sampled_from(["line", "block"]),
)
def test_any_bytes_of_text_read_the_same_in_any_division(
    records: list[bytes], unit_bytes: int, unit: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("text")
    (folder / "swh_Latn.txt").write_bytes(b"\n".join(records) + b"x")
    whole = read(folder, text_unit=unit)
    assert [d.data for d in read(folder, unit_bytes, text_unit=unit)] == [d.data for d in whole]


def test_text_units(tmp_path: Path) -> None:
    (tmp_path / "yor_Latn.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n\r\n  \r\nthree\n\n\n")
    assert texts(read(tmp_path)) == ["one\ntwo", "three"]
    assert texts(read(tmp_path, text_unit="line")) == ["one", "two", "three"]
    whole = texts(read(tmp_path, text_unit="file", unit_bytes=1))
    assert whole == ["one\r\ntwo\r\n\r\n  \r\nthree\n\n\n"]


def test_compressed_files_of_several_members(tmp_path: Path) -> None:
    first, second = documents("a", 400, 200), documents("b", 40)
    parts = [json_lines({"text": text} for text in part) for part in (first, second)]
    (tmp_path / "hau_Latn.jsonl.gz").write_bytes(b"".join(map(gzip.compress, parts)) + b"\0" * 512)
    (tmp_path / "ibo_Latn.jsonl.zst").write_bytes(b"".join(map(zstandard.compress, parts)))
    assert texts(read(tmp_path)) == [*first, *second] * 2


def test_a_very_compressible_file_does_not_expand_in_memory(tmp_path: Path) -> None:
    data = b'{"text": "' + b"a" * 3_000_000 + b'"}\n'
    (tmp_path / "hau_Latn.jsonl.gz").write_bytes(gzip.compress(data * 3))
    (tmp_path / "ibo_Latn.jsonl.zst").write_bytes(zstandard.compress(data * 3))
    assert [len(text) for text in texts(read(tmp_path))] == [3_000_000] * 6
    sizes = [len(block) for block in read_blocks(str(tmp_path / "hau_Latn.jsonl.gz"), "gzip", 0, 0)]
    assert sum(sizes) == 3 * len(data)
    assert max(sizes) <= 1 << 20


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.txt.gz", "a.parquet"])
def test_a_file_cut_short_keeps_what_came_before(name: str, tmp_path: Path) -> None:
    expected = [f"{text} {os.urandom(40).hex()}" for text in documents("sna_Latn", 3000)]
    folder = tmp_path / "sna_Latn"
    folder.mkdir()
    if name == "a.parquet":
        table = pa.Table.from_pylist([{"text": text} for text in expected])
        pq.write_table(table, folder / name, row_group_size=100)
        data = bytearray((folder / name).read_bytes())
        middle = len(data) // 2
        data[middle : middle + 20_000] = os.urandom(20_000)  # a truncated file has no footer
    else:
        joined = json_lines({"text": text} for text in expected)
        if name.endswith("txt.gz"):
            joined = "\n\n".join(expected).encode()
        compress = gzip.compress if name.endswith("gz") else zstandard.compress
        whole = compress(joined)
        data = bytearray(whole[: len(whole) // 2])
    (folder / name).write_bytes(data)
    found = read(tmp_path)
    assert "damaged_file" in reasons(found)
    [rejected] = [d.rejected for d in found if d.rejected is not None]
    detail = rejected.detail
    assert detail is not None
    assert name in detail
    kept = texts(found)
    assert len(kept) > 100
    assert set(kept[:-1]) <= set(expected)


def test_parquet_without_a_footer_is_named(tmp_path: Path) -> None:
    (tmp_path / "sna_Latn.parquet").write_bytes(b"PAR1" + os.urandom(500))
    found = read(tmp_path)
    assert reasons(found) == ["damaged_file"]
    assert found[0].language == "sna_Latn"


def test_bad_json_lines_are_told_by_reason(tmp_path: Path) -> None:
    good = json.dumps({"text": "good"})
    bad = [
        ("broken_json", b'{"text": "cut'),
        ("broken_json", b"[1, 2]"),
        ("broken_json", b"[" * 100_000),
        ("missing_text", b'{"other": 1}'),
        ("missing_text", b'{"text": null}'),
        ("invalid_utf8", b'{"text": "\xff\xfe"}'),
        ("invalid_utf8", b'{"text": "\\ud83d"}'),
        ("too_long", b'{"text": "' + b"x" * 300_000 + b'"}'),
    ]
    data = b"".join(good.encode() + b"\n" + line + b"\n" for _, line in bad) + b"\n  \n"
    (tmp_path / "zul_Latn.jsonl").write_bytes(data)
    found = read(tmp_path, maximum_bytes=200_000)
    assert texts(found) == ["good"] * len(bad)
    assert reasons(found) == [reason for reason, _ in bad]


def test_parquet_columns_of_any_text_type(tmp_path: Path) -> None:
    values = ["eins", "zwei ü", None, "drei"]
    types = [pa.string(), pa.large_string(), pa.string_view(), pa.binary()]
    for number, kind in enumerate([*types, pa.dictionary(pa.int32(), pa.string())]):
        path = tmp_path / f"deu_Latn.{number}.parquet"
        try:
            pq.write_table(pa.table({"text": pa.array(values).cast(kind)}), path)
        except pa.ArrowNotImplementedError:
            continue  # not supported by this version of Arrow
        found = read(path)
        assert texts(found) == ["eins", "zwei ü", "drei"]
        assert reasons(found) == ["missing_text"]


def test_parquet_with_invalid_utf8_rejects_only_that_row(tmp_path: Path) -> None:
    column = pa.array([b"fine", b"\xff\xfe", b"good"]).view(pa.string())
    pq.write_table(pa.table({"text": column}), tmp_path / "deu_Latn.parquet")
    assert [d.data for d in read(tmp_path)] == [b"fine", b"\xff\xfe", b"good"]


def test_languages_from_path_columns_and_option(tmp_path: Path) -> None:
    (tmp_path / "data" / "swh_Latn" / "train").mkdir(parents=True)
    line = json_lines([{"text": "a", "language": "eng", "language_script": "Latn"}])
    (tmp_path / "data" / "swh_Latn" / "train" / "0.jsonl").write_bytes(line)
    (tmp_path / "data" / "swh_Latn" / "yor_Latn.jsonl").write_bytes(line)
    mixed = [
        *rows("eng_Latn", ["b"]),
        {"text": "c", "language": "fra_Latn"},
        {"text": "d", "language": "sw", "language_script": "Latn"},
        {"text": "e", "language": "English"},
        {"text": "f"},
    ]
    (tmp_path / "mixed.jsonl").write_bytes(json_lines(mixed))
    found = [document.language for document in read(tmp_path)]
    assert found == ["swh_Latn", "yor_Latn", "eng_Latn", "fra_Latn", "swh_Latn", "eng_Latn", None]
    assert {d.language for d in read(tmp_path / "data" / "swh_Latn" / "train")} == {"eng_Latn"}
    assert {d.language for d in read(tmp_path / "data" / "swh_Latn")} == {"swh_Latn", "yor_Latn"}
    only = read(tmp_path / "mixed.jsonl", language="zul_Latn")
    assert {document.language for document in only} == {"zul_Latn"}
    other = read(tmp_path / "mixed.jsonl", language_columns=("text", "language_script"))
    assert {document.language for document in other} == {None}


def test_patterns_and_what_is_not_read(tmp_path: Path) -> None:
    for name in ("a/swh_Latn.txt", "b/yor_Latn.txt", "b/notes.txt", "b/hau_Latn.pdf"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    (tmp_path / "b" / "ibo_Latn.txt").write_text("")
    (tmp_path / "b" / "loop").symlink_to(tmp_path / "b")
    found = discover(settings(f"{tmp_path}/*/*.txt", tmp_path / "out"))
    assert [file.language for file in found.files] == ["swh_Latn", "yor_Latn"]
    found = discover(settings(tmp_path, tmp_path / "out"))
    assert {why: len(names) for why, names in found.ignored.items()} == {
        "unknown kind of file '.pdf' (extract its text into .txt or .jsonl)": 1,
        "empty file": 1,
        "text whose path names no language": 1,
    }


def test_a_file_replaced_after_planning_stops_the_run(tmp_path: Path) -> None:
    path = tmp_path / "swh_Latn.txt"
    path.write_text("one\n\ntwo")
    options = settings(tmp_path, tmp_path / "out")
    [file_range] = plan_ranges(discover(options).files[0], 100, options)
    path.write_text("three\n\nfour")
    with pytest.raises(UserError, match=r"swh_Latn\.txt was changed"):
        list(read_range(file_range, options))


def test_lines_bound_memory_and_count_each_long_line_once() -> None:
    stream = iter([b"ab", b"c\nlonglong", b"longlonglong", b"long\nfine\n" + b"x" * 50, b"\nend"])
    found = [
        "LONG" if isinstance(line, OversizedLine) else line for line in split_lines(stream, 10)
    ]
    assert found == [b"abc", "LONG", b"fine", "LONG", b"end"]


def test_settings_refuse_what_they_do_not_know(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="text_unit"):
        PrepSettings(input="a", output=tmp_path, text_unit="page")  # type: ignore[arg-type]
